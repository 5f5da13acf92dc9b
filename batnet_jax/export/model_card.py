"""The model card: what a file is, where it comes from, and what it is not for."""

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.data import title_of
from batnet_jax.errors import UserError
from batnet_jax.version import VERSION

# What the people on a data set's images have agreed to, and what its authors allow, by its name.
TERMS = {
    "pedestrians": "drawn by a program of batnet-jax: no person is shown. Apache-2.0.",
    "market1501": "photographs of people at a university, given out for research only.",
    "dukemtmc_reid": "photographs of people on a campus. Its authors withdrew it in 2019: do not "
    "publish or deploy what was trained on it.",
    "cuhk03": "photographs of people at a university, given out for research only.",
    "msmt17": "photographs of people on a campus, given out for research only.",
    "folder": "images of whoever trained this model, who knows their terms and the consent of the "
    "people on them.",
    "imported": "unknown: the weights were imported. Ask where they come from.",
}
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "jax2onnx", "onnxruntime")


class Facts(NamedTuple):
    """What a card is made of.

    Attributes:
      step: steps trained.
      run: what the checkpoint says of itself, see `checkpoints.metadata`.
      results: contents of the evaluations of this step.
      parameters: how many numbers are trained.
      image_size: height and width that the file wants.
      sha256: of the file, hexadecimal.
      size: of the file, bytes.
      features: how many numbers each feature has, see `models.feature_sizes`.
    """

    step: int
    run: dict[str, Any]
    results: Sequence[dict[str, Any]]
    parameters: int
    image_size: tuple[int, int]
    sha256: str
    size: int
    features: dict[str, int]


def read_results(workdir: Path, step: int) -> list[dict[str, Any]]:
    """The evaluations of a step that the workdir holds, one for each data set and split.

    Raises: UserError if one of the files is damaged.
    """
    found = {}
    folder = workdir / "eval"
    for path in sorted([*folder.glob(f"step_{step}.json"), *folder.glob(f"step_{step}_*.json")]):
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"'{path}' is damaged: make it again with --mode=eval") from error
        found[result["dataset"], result.get("split", "test")] = result
    return list(found.values())


def model_card(name: str, facts: Facts) -> str:
    """The card of a file called `name`, Markdown."""
    sections = [
        ("", _what(name, facts)),
        ("Input and output", _interface(name, facts)),
        ("Training", _training(facts)),
        ("Figures", _figures(facts)),
        ("Use and limits", USE),
        ("The data's terms", _terms(facts)),
        ("Versions", _versions()),
    ]
    title = f"# {name}\n\n"
    parts = [f"## {head}\n\n{text}" if head else text for head, text in sections]
    settings = json.dumps(_settings(facts.run), indent=2)
    return title + "\n\n".join(parts) + f"\n\n## Settings\n\n```json\n{settings}\n```\n"


USE = """\
Made to find other images of the person of a query image: compare features by their inner product
or Euclidean distance, and rank. Suited to research on retrieval, and to collections whose people
have agreed.

- It ranks; it does not identify. A first place is no proof that two images show the same person;
  have a person look, and decide nothing about people from a score alone.
- Not for watching people without their consent or a legal basis. Many places regulate or forbid
  identifying people from afar.
- It goes by clothes as much as by the body: figures drop where people have changed, and on cameras,
  light and places other than the training set's. Measure it on images of your own.
- How figures differ between groups of people has not been measured. Public training sets come from
  few places."""


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """The run's settings without the places of its machine: a card travels."""
    config = run.get("config")
    if config is None:  # a checkpoint of the first versions
        return {"model": run["model"]}
    data, evaluation, init = (dict(config[name]) for name in ("data", "eval", "init"))
    for place in ("dir", "manual_dir"):
        data.pop(place)
    data["train"] = [title_of(name) for name in data["train"]]
    evaluation["datasets"] = [title_of(name) for name in evaluation["datasets"]]
    init["from"] = Path(init["from"]).name
    return config | {"data": data, "eval": evaluation, "init": init}


def _what(name: str, facts: Facts) -> str:
    model = facts.run["model"]
    parts = f"{model['num_parts']} part streams" if model["num_parts"] else "no part streams"
    attentions = {"aia": "Attention in Attention", "plain": "Bi-attention", "none": "no attention"}
    return (
        "BAT-net, a network for person retrieval (Fang et al., ICCV 2019), written by batnet-jax "
        f"{VERSION}: {attentions[model['attention']]}, {parts}, backbone "
        f"{model.get('backbone', 'published')}, width {model['width']:g}, "
        f"{facts.parameters:,} parameters, at step {facts.step:,} of its training.\n\n"
        f"`{name}`: {facts.size:,} bytes, SHA-256 `{facts.sha256}`."
    )


def _interface(name: str, facts: Facts) -> str:
    height, width = facts.image_size
    halves = " and ".join(f"{name}, {size} numbers" for name, size in facts.features.items())
    spec = (
        f"| | name | type | shape |\n|---|---|---|---|\n"
        f"| input | `images` | uint8 | batch, {height}, {width}, 3 |\n"
        f"| output | `features` | float32 | batch, {sum(facts.features.values())} |\n\n"
        f"Images are RGB, 0 to 255, channels last, the whole image resized to {height} x {width} "
        "as in training (OpenCV's INTER_LINEAR); normalisation is inside. The batch is any "
        f"number from 1. A feature is {halves}, each of unit length, side by side."
    )
    if name.endswith(".stablehlo"):
        return f"{spec}\n\n{STABLEHLO_USE.format(name=name)}"
    if name.endswith(".onnx"):
        return f"{spec}\n\n{ONNX_USE.format(name=name)}"
    return (
        "Tensors under the names of the published PyTorch code, which makes the network of them. "
        "Images are RGB, normalised by ImageNet's mean and deviation, of "
        f"{height} x {width} pixels."
    )


STABLEHLO_USE = """\
A function serialised by `jax.export` (StableHLO, for CPU, CUDA and TPU). JAX alone runs it
(`pip install jax flatbuffers`): the version that wrote it, named below, and newer ones for at least
six months.

```python
from pathlib import Path
from jax import export

model = export.deserialize(bytearray(Path("{name}").read_bytes()))
features = model.call(images)
```"""

ONNX_USE = """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}")
(features,) = session.run(["features"], {{"images": images}})
```"""


def _training(facts: Facts) -> str:
    config, lines = facts.run.get("config"), []
    identities = facts.run["identities"]
    for name in dict.fromkeys(who[0] for who in identities):
        lines.append(f"- {name}: {sum(who[0] == name for who in identities):,} identities.")
    if config:
        height, width = config["data"]["image_size"]
        source = config["init"]["from"]
        start = f"weights of `{Path(source).name}`" if source else "random weights"
        lines.append(f"- On images of {height} x {width}, from {start}, seed {config['seed']}.")
    return "\n".join(lines)


def _figures(facts: Facts) -> str:
    if not facts.results:
        return "None: this step has not been evaluated (`--mode=eval` does it)."
    rows = ["| data set | split | mAP | mINP | rank 1 | rank 5 | rank 10 | queries | gallery |"]
    rows.append("|---|---|" + "---:|" * 7)
    for r in facts.results:
        values = [r["mAP"], r["mINP"], *(r["cmc"][rank] for rank in ("1", "5", "10"))]
        figures = " | ".join(f"{100 * value:.1f}" for value in values)
        counts = f"{r['num_valid_query']:,} | {r['num_gallery']:,}"
        rows.append(f"| {r['dataset']} | {r.get('split', 'test')} | {figures} | {counts} |")
    conventions = {r["ap"]: r.get("same_camera", "remove") for r in facts.results}
    ap = " and ".join(conventions)
    kept = (
        "removed" if set(conventions.values()) == {"remove"} else "kept where cameras are unknown"
    )
    rows.append(
        f"\nPer cent. Average precision: {ap} (`precision` is the mean of the precision at the "
        "hits, `trapezoid` the area under the curve with trapezoids, which is a little lower or "
        f"higher). Gallery images of the query's own identity and camera: {kept}. Measured with "
        "batnet-jax before the export; the file's features agree to 1e-4."
    )
    return "\n".join(rows)


def _terms(facts: Facts) -> str:
    names = dict.fromkeys(who[0] for who in facts.run["identities"])
    unknown = "no terms are known here: ask its source."
    lines = [f"- {name}: {TERMS.get(name.split('-')[0], unknown)}" for name in names]
    return "\n".join(
        [
            *lines,
            "",
            "Weights can carry the terms of the data they were trained on, and of the weights they "
            "started from. This card gives no licence for them.",
        ]
    )


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"batnet-jax {VERSION}, Python {platform.python_version()}, {', '.join(found)}."
