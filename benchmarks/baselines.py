"""What retrieval reaches without training: random, colour histogram, raw pixels, a fresh net.

    python benchmarks/baselines.py --config=configs/demo.py [--workdir=DIR] [--config.FIELD=VALUE]

The script prints a Markdown table for the query and gallery of the config's data set. With
--workdir the table has a row for the trained net, from the run's last evaluation.
`docs/pedestrians.md` shows such tables.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

from batnet_jax import retrieval
from batnet_jax.commands import command_line
from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest, RunData, open_run_data, open_store
from batnet_jax.errors import UserError
from batnet_jax.evaluation.baselines import raw_pixels
from batnet_jax.evaluation.embed import extract_features, make_embed
from batnet_jax.evaluation.ranked_test import choose_same_camera
from batnet_jax.models.build import make_model
from batnet_jax.step.train_step import init_state, make_recipe


def random_embedding(images: np.ndarray) -> np.ndarray:
    """[b, h, w, 3] bytes to [b, 128], drawn from the image's own bytes: a fixed random vector."""
    return np.stack(
        [
            np.random.default_rng(np.frombuffer(i.tobytes()[:4096], np.uint32)).standard_normal(128)
            for i in images
        ]
    )


def colour_histogram(images: np.ndarray) -> np.ndarray:
    """[b, h, w, 3] bytes to [b, 512]: joint RGB histogram of 8 x 8 x 8 bins."""
    bins = (images // 32).astype(int)
    codes = (bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]).reshape(len(images), -1)
    return np.stack([np.bincount(c, minlength=512) / codes.shape[1] for c in codes])


def striped_histogram(images: np.ndarray) -> np.ndarray:
    """[b, h, w, 3] bytes to [b, 384]: 6 stripes of the middle half, 4 x 4 x 4 bins each.

    A hand-made descriptor that knows where people are; the square root weighs small counts up.
    """
    width = images.shape[2]
    bins = (images[:, :, width // 4 : width - width // 4] // 64).astype(int)
    codes = bins[..., 0] * 16 + bins[..., 1] * 4 + bins[..., 2]
    stripes = np.array_split(codes, 6, axis=1)
    counts = [[np.bincount(c.ravel(), minlength=64) for c in stripe] for stripe in stripes]
    return np.sqrt(np.concatenate(counts, axis=1))


def evaluate(config, test: RetrievalTest, embed) -> dict:
    """Evaluates an embedding on a query and a gallery."""

    def features(split: Split, name: str) -> np.ndarray:
        with open_store(config, split) as store:
            return extract_features(store, embed, batch=64, name=name).astype(np.float32)

    query, gallery = test.query, test.gallery
    return retrieval.evaluate(
        features(query, "query"),
        query.pids,
        query.cameras,
        features(gallery, "gallery"),
        gallery.pids,
        gallery.cameras,
        ap=config.eval.ap,
        same_camera=choose_same_camera(config, test),
    )


def untrained_net(config, data: RunData):
    """The config's network with its initial values, as an embedding."""
    identities = len(data.train.identities)
    recipe = make_recipe(config, num_identities=identities, steps_per_epoch=1, axis_name=None)
    state = init_state(recipe, tuple(config.data.image_size))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return make_embed(make_model(config, identities), variables)


def last_evaluation(workdir: Path) -> dict:
    """The result that a run's last evaluation has written.

    Raises: UserError if there is none.
    """
    names = [path.stem.removeprefix("step_") for path in workdir.glob("eval/step_*.json")]
    steps = [int(name) for name in names if name.isdecimal()]
    if not steps:
        raise UserError(
            f"'{workdir}' holds no evaluation: train there first, or name another --workdir"
        )
    return json.loads((workdir / "eval" / f"step_{max(steps)}.json").read_text())


def run(argv: list[str]) -> None:
    """Prints the table."""
    command_line.parse(argv)
    config, workdir = (flags.FLAGS[name].value for name in ("config", "workdir"))
    trained = {}
    if workdir:
        result = last_evaluation(Path(workdir))
        trained = {f"trained, {result['step']} steps": result}
    data = open_run_data(config)
    test = data.tests[0]
    rows = {
        "random embedding": random_embedding,
        "colour histogram": colour_histogram,
        "colour histograms of 6 stripes": striped_histogram,
        "raw pixels": raw_pixels,
        "untrained net": untrained_net(config, data),
    }
    results = {name: evaluate(config, test, embed) for name, embed in rows.items()}
    results |= trained
    print(f"\n{test.name}, AP by {config.eval.ap}\n")
    print("| embedding | mAP | Rank-1 |\n|---|---|---|")
    for name, result in results.items():
        print(f"| {name} | {result['mAP']:.3f} | {result['cmc']['1']:.3f} |")


if __name__ == "__main__":
    try:
        run(sys.argv)
    except UserError as error:
        sys.exit(f"error: {error}")
