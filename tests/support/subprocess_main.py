"""A process of a test: main with a cut backbone, or checks of `processes` and `devices`."""

import dataclasses
import json
import os
import pathlib
import sys

import numpy as np


class WithoutTorch:
    """Refuses to import PyTorch, which tensorboardX does where it is: it takes seconds."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)


sys.meta_path.insert(0, WithoutTorch)  # type: ignore


def run_main():
    """Run main with a cut backbone, which compiles faster, and with float64 as a choice."""
    from batnet_jax.config import FIELDS
    from batnet_jax.main import main
    from batnet_jax.models import googlenet, resnet

    googlenet.BLOCK_INCEPTIONS.update({2: ("3a",), 3: ("4a",), 4: ()})
    resnet.UNITS.update({1: 1, 2: 1, 3: 1, 4: 1})
    dtype = FIELDS["model.dtype"]
    FIELDS["model.dtype"] = dataclasses.replace(dtype, choices=(*dtype.choices, "float64"))
    main()


def attempt(call):
    """Return the result of a call, or the text of its UserError."""
    from batnet_jax.errors import UserError

    try:
        return call()
    except UserError as error:
        return f"UserError: {error}"


def refuse(text):
    """Raise a UserError."""
    from batnet_jax.errors import UserError

    raise UserError(text)


def check(folder):
    """Call each function; write the results to `<process>.json` in `folder`."""
    import jax

    from batnet_jax import retrieval
    from batnet_jax.runtime import devices, processes

    processes.join()
    me = jax.process_index()
    found = {"lead": processes.is_lead(), "alone": processes.alone()}
    state = processes.by_lead(
        lambda: {"zero": np.float32([-0.0, np.nan, me]), "text": "x" * 70_000}
    )
    found["by_lead"] = [np.signbit(state["zero"][0]).item(), str(state["zero"][1:])]
    found["by_lead"].append(len(state["text"]))
    found["nothing"] = processes.by_lead(lambda: None)
    found["lead refuses"] = attempt(lambda: processes.by_lead(lambda: refuse("no room")))
    found["by_all"] = processes.by_all(lambda: me)
    found["one refuses"] = attempt(lambda: processes.by_all(lambda: refuse("no data") if me else 0))
    marker = pathlib.Path(folder, "prepared")
    found["lead_first"] = processes.lead_first(lambda: marker.exists() or marker.touch() or "made")
    processes.check_same("settings", "as all")
    found["differ"] = attempt(lambda: processes.check_same("settings", f"own {me}"))

    batch = 2 * jax.device_count()
    rows = devices.own_rows(batch)
    found["rows"] = rows.tolist()
    own = np.stack([rows, rows + batch])[..., None] * np.ones(3)
    found["gathered"] = devices.gather(own, batch)[:, 0].tolist()
    found["round_up"] = devices.round_up(batch + 1)
    positions = jax.pmap(
        lambda x: jax.lax.all_gather((x, jax.lax.axis_index("i") * len(x) + np.arange(2)), "i"),
        "i",
        out_axes=None,
    )(devices.split(rows))
    found["positions"] = [np.asarray(x).ravel().tolist() for x in positions]
    rng = np.random.default_rng(0)
    pids, cameras = rng.integers(0, 5, 60), rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    found["evaluation"] = retrieval.evaluate(
        features[:20], pids[:20], cameras[:20], features[20:], pids[20:], cameras[20:], chunk=10
    )
    with open(os.path.join(folder, f"{me}.json"), "w") as file:
        json.dump(found, file)
    print("only the lead prints")


if __name__ == "__main__":
    run_main() if sys.argv[1].startswith("--") else check(sys.argv[1])
