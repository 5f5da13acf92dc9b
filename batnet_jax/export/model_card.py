"""The model card: the content of an exported file, its origin, its uses and their limits."""

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.data import title_of
from batnet_jax.version import VERSION
from batnet_jax.workdir.results import read_whole_results, tell_left_out

# The consent of the people on a data set's images, and its authors' terms, by the data set's name.
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


class ExportedModel(NamedTuple):
    """The facts on a card.

    Attributes:
      step: steps trained.
      metadata: of the checkpoint; see `checkpoints.metadata`.
      results: of the evaluations of this step.
      parameters: number of trained parameters.
      image_size: height and width of the input.
      sha256: of the file, hexadecimal.
      size: of the file, bytes.
      features: dimension of each feature; see `models.feature_sizes`.
    """

    step: int
    metadata: dict[str, Any]
    results: Sequence[dict[str, Any]]
    parameters: int
    image_size: tuple[int, int]
    sha256: str
    size: int
    features: dict[str, int]


def read_results(workdir: Path, step: int) -> list[dict[str, Any]]:
    """Return a workdir's evaluations of a step, one for each data set and split.

    Files that cannot be read are named on stderr and left out.
    """
    found, messages = read_whole_results(workdir, step=step)
    tell_left_out(messages)
    results = {(r["dataset"], r["split"]): r for path, r in sorted(found) if r["step"] == step}
    return list(results.values())


def model_card(name: str, model: ExportedModel) -> str:
    """Return the card of a file called `name`, Markdown."""
    sections = [
        ("", _what(name, model)),
        ("Input and output", _interface(name, model)),
        ("Training", _training(model)),
        ("Figures", _figures(model)),
        ("Use and limits", USE),
        ("The data's terms", _terms(model)),
        ("Versions", _versions()),
    ]
    title = f"# {name}\n\n"
    parts = [f"## {head}\n\n{text}" if head else text for head, text in sections]
    settings = json.dumps(_settings(model.metadata), indent=2)
    return title + "\n\n".join(parts) + f"\n\n## Settings\n\n```json\n{settings}\n```\n"


USE = """\
Made to find other images of the person in a query image: compare features by their inner product
or Euclidean distance, and rank. Suited to research on retrieval, and to collections of images of
people who have agreed.

- It ranks; it does not identify. A first rank does not prove that two images show the same person:
  have a person look, and decide nothing about people from a score alone.
- Not for watching people without their consent or a legal basis. Many places regulate or forbid
  identifying people from a distance.
- It relies on clothes as much as on the body: figures drop when people have changed clothes, and
  with cameras, light and places other than the training set's. Measure it on your own images.
- How figures differ between groups of people has not been measured. Public training sets come from
  few places."""


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the run's settings without paths of its machine, as a card is given to others."""
    config = metadata.get("config")
    if config is None:  # a checkpoint of the first versions
        return {"model": metadata["model"]}
    data, evaluation, init = (dict(config[name]) for name in ("data", "eval", "init"))
    for path in ("dir", "manual_dir"):
        data.pop(path)
    data["train"] = [title_of(name) for name in data["train"]]
    evaluation["datasets"] = [title_of(name) for name in evaluation["datasets"]]
    init["from"] = Path(init["from"]).name
    return config | {"data": data, "eval": evaluation, "init": init}


def _what(name: str, model: ExportedModel) -> str:
    network = model.metadata["model"]
    parts = f"{network['num_parts']} part streams" if network["num_parts"] else "no part streams"
    attentions = {"aia": "Attention in Attention", "plain": "Bi-attention", "none": "no attention"}
    return (
        "BAT-net, a network for person retrieval (Fang et al., ICCV 2019), written by batnet-jax "
        f"{VERSION}: {attentions[network['attention']]}, {parts}, backbone "
        f"{network.get('backbone', 'published')}, width {network['width']:g}, "
        f"{model.parameters:,} parameters, at step {model.step:,} of its training.\n\n"
        f"`{name}`: {model.size:,} bytes, SHA-256 `{model.sha256}`."
    )


def _interface(name: str, model: ExportedModel) -> str:
    height, width = model.image_size
    halves = " and ".join(f"{name}, {size} numbers" for name, size in model.features.items())
    spec = (
        f"| | name | type | shape |\n|---|---|---|---|\n"
        f"| input | `images` | uint8 | batch, {height}, {width}, 3 |\n"
        f"| output | `features` | float32 | batch, {sum(model.features.values())} |\n\n"
        f"Images are RGB, 0 to 255, channels last, the whole image resized to {height} x {width} "
        "as in training (OpenCV's INTER_LINEAR); normalisation is inside. The batch is any "
        f"number from 1. A feature is {halves}, each of unit length, side by side."
    )
    if name.endswith(".stablehlo"):
        return f"{spec}\n\n{STABLEHLO_USE.format(name=name)}"
    if name.endswith(".onnx"):
        return f"{spec}\n\n{ONNX_USE.format(name=name)}"
    return (
        "Tensors under the names of the published PyTorch code, which defines the network. "
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


def _training(model: ExportedModel) -> str:
    config, lines = model.metadata.get("config"), []
    identities = model.metadata["identities"]
    for name in dict.fromkeys(who[0] for who in identities):
        lines.append(f"- {name}: {sum(who[0] == name for who in identities):,} identities.")
    if config:
        height, width = config["data"]["image_size"]
        source = config["init"]["from"]
        start = f"weights of `{Path(source).name}`" if source else "random weights"
        lines.append(f"- On images of {height} x {width}, from {start}, seed {config['seed']}.")
    return "\n".join(lines)


def _figures(model: ExportedModel) -> str:
    if not model.results:
        return "None: this step has not been evaluated (`--mode=eval` does it)."
    rows = ["| data set | split | mAP | mINP | rank 1 | rank 5 | rank 10 | queries | gallery |"]
    rows.append("|---|---|" + "---:|" * 7)
    for r in model.results:
        values = [r["mAP"], r.get("mINP"), *(r["cmc"].get(rank) for rank in ("1", "5", "10"))]
        figures = " | ".join("" if value is None else f"{100 * value:.1f}" for value in values)
        counts = " | ".join(
            f"{r[name]:,}" if name in r else "" for name in ("num_valid_query", "num_gallery")
        )
        rows.append(f"| {r['dataset']} | {r['split']} | {figures} | {counts} |")
    conventions = {r["ap"]: r["same_camera"] for r in model.results}
    ap = " and ".join(conventions)
    kept = (
        "removed" if set(conventions.values()) == {"remove"} else "kept where cameras are unknown"
    )
    left_out = any(r.get("leave_out_own") for r in model.results)
    own = " Each query's own image is left out of the gallery." if left_out else ""
    rows.append(
        f"\nPer cent. Average precision: {ap} (`precision` is the mean of the precision at the "
        "hits, `trapezoid` the area under the curve with trapezoids, which is a little lower or "
        f"higher). Gallery images of the query's own identity and camera: {kept}.{own} Measured "
        "with batnet-jax before the export; the file's features agree to 1e-4."
    )
    return "\n".join(rows)


def _terms(model: ExportedModel) -> str:
    names = dict.fromkeys(who[0] for who in model.metadata["identities"])
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
