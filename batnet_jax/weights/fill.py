"""Fills the variables of a network with the tensors of a source, and reports the fate of each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from batnet_jax.errors import UserError
from batnet_jax.weights.convert import WORKDIR, Source, flatten
from batnet_jax.weights.load_report import Report
from batnet_jax.weights.names import (
    BACKBONE,
    BATNET,
    CLIP,
    FASTREID,
    OSNET,
    OSNET_AIN,
    OSNET_IBN,
    RESNET,
    RESNET_IBN,
    TORCHVISION,
    VIT,
    Path,
    is_backbone,
    stream_twin,
)
from batnet_jax.weights.vit_names import resize_positions

REMADE = "made for the new identities"
CLASSIFIER = "classifier"  # the layer of a head whose last axis is the identities
MAX_SHOWN = 3  # names of each kind of problem in an error message

_COUNT = (re.compile(r".*\.num_batches_tracked"), "PyTorch's count of batches")
_RESNET = (
    _COUNT,
    (re.compile(r"fc\..*"), "ImageNet classifier"),
    (re.compile(r"classifier\..*"), "classifier of other identities"),
)
# Tensors of a source that no network of ours has, by patterns of their names, and the reason.
UNUSED = {
    BATNET: (
        _COUNT,
        (re.compile(r"features\.part_predictor\d*\..*"), "unused part predictor"),
        (re.compile(r"features\.bilinearlayer2_global\..*"), "unused by the published code"),
    ),
    BACKBONE: (
        _COUNT,
        (re.compile(r"(?!features\.|conv\d*\.|inception).*"), "not of the backbone"),
    ),
    TORCHVISION: (
        _COUNT,
        (re.compile(r"aux[12]\..*"), "auxiliary classifier"),
        (re.compile(r"fc\..*"), "ImageNet classifier"),
    ),
    RESNET: _RESNET,
    RESNET_IBN: _RESNET,
    FASTREID: (
        _COUNT,
        (re.compile(r"pixel_(mean|std)"), "ImageNet's, by which images are normalised"),
        (re.compile(r"heads\.bottleneck\.0\.bias"), "a shift of 0"),
    ),
    OSNET: (_COUNT,),
    OSNET_IBN: (_COUNT,),
    OSNET_AIN: (_COUNT,),
    VIT: (
        (re.compile(r"mask(_token|ed_embed)"), "for training without labels"),
        (re.compile(r"(head|fc|pre_logits)\..*"), "classifier, or CLIP's projection"),
        (re.compile(r"sie_embed"), "of cameras, which our network does not take"),
    ),
    CLIP: (),
    WORKDIR: (),
}
_PARTS = re.compile(r"(features\.(inception[23]_local|norm1_2)|fc_local|classifier_local)\..*")
_ATTENTION = re.compile(r"features\.bilinearatt_global\..*")


def fill(
    variables: dict[str, Any],
    source: Source,
    *,
    keep_classifiers: bool,
    classes: Sequence[tuple[int, int]] = (),
) -> tuple[dict[str, Any], Report]:
    """Return our variables with the source's values, or load nothing at all.

    The source must have the whole backbone. Another part (Bi-attention, a head) that the source
    does not have at all keeps its initial values, except the part streams, which are copied from
    the backbone. If the source has some of a part, it must have all of it.

    Args:
      variables: `params` and `batch_stats` at their initial values.
      source: its `model` agrees with the network.
      keep_classifiers: load the classifiers; False: keep their initial values, as other identities
        are trained.
      classes: (our label, the source's label) of each identity whose part of the classifiers is
        loaded even so. The source must then be a workdir.
    Returns: new variables of the same structure, NumPy float32, and the report.

    Raises: UserError if a tensor is missing, of another shape, not finite, or unknown.
    """
    flat = flatten(variables)
    present = {path[1] for path in flat if source.name(path) in source.tensors}
    initial = {path: _why_initial(path, present, keep_classifiers or classes) for path in flat}
    report = Report(source.label, source.format, source.prefix)
    report.skipped.extend(source.left_out)
    report.initial.extend(("/".join(path), why) for path, why in initial.items() if why)
    origins = {path: _origin(source, path, present) for path, why in initial.items() if not why}
    missing = [name for name, _ in origins.values() if name not in source.tensors]
    loaded, unfit = _load(source, flat, origins, classes, report)
    reasons = _unused_tensors(source, {name for name, _ in origins.values()}, present, initial)
    report.skipped.extend((name, why) for name, why in reasons.items() if why)
    unknown = [name for name, why in reasons.items() if not why]
    _require_none(source, missing=missing, unfit=unfit, unknown=unknown)
    return unflatten_dict(flat | loaded), report


def _origin(source: Source, path: Path, present: set[str]) -> tuple[str, str]:
    """Return the canonical name of the tensor for a variable, and the block it is copied from.

    The block is "" unless the variable is of a part stream that the source does not have.
    """
    twin = None if path[1] in present else stream_twin(path)
    return source.name(twin or path) or "/".join(path), twin[1] if twin else ""


def _load(
    source: Source,
    flat: Mapping[Path, np.ndarray],
    origins: Mapping[Path, tuple[str, str]],
    classes: Sequence[tuple[int, int]],
    report: Report,
) -> tuple[dict[Path, np.ndarray], list[str]]:
    """Convert the tensors of the source, and report each.

    Args:
      source: of the tensors; may lack some.
      flat: our variables at their initial values.
      origins: see `_origin`, for each variable to load.
      classes: see `fill`.
      report: its `loaded` grows.
    Returns: the loaded variables, and the problems of tensors that do not fit.
    """
    loaded, unfit = {}, []
    for path, (name, block) in origins.items():
        if name not in source.tensors:
            continue
        original, tensor = source.tensors[name]
        tensor, resized = _fit_positions(path, tensor, flat[path].shape)
        is_mixed = path[-2] == CLASSIFIER and bool(classes)
        if is_mixed:
            tensor = _with_classes(flat[path], tensor, classes)
        if problem := _problem(tensor, source.shape(path, flat[path].shape)):
            unfit.append(f"{original} {problem}")
            continue
        loaded[path], done = source.convert(path, tensor)
        done = [f"copied from {block}", *done] if block else [*resized, *done]
        if is_mixed:
            done = [f"{len(classes)} of {flat[path].shape[-1]} identities"]
        report.loaded.append(("/".join(path), original, ", ".join(done) or "as it is"))
    return loaded, unfit


def _fit_positions(
    path: Path, tensor: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """Resize a transformer's positions to another grid, and say so; leave other tensors."""
    grids = tensor.shape[:-1], shape[:-1]
    is_other = path[-1] == "positions" and tensor.ndim == 3 and grids[0] != grids[1]
    if not (is_other and _problem(tensor, tensor.shape) == ""):
        return tensor, []
    words = [" x ".join(map(str, grid)) for grid in grids]
    return resize_positions(tensor, grids[1]), [f"{words[0]} resized to {words[1]}"]


def _with_classes(
    value: np.ndarray, tensor: np.ndarray, classes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return a classifier's variable with the values that a workdir has for some identities.

    Args:
      value: [..., ours] the initial value.
      tensor: [..., theirs] the workdir's value; a tensor of another rank is returned unchanged.
      classes: (our label, the workdir's label) of the identities.
    """
    if tensor.shape[:-1] != value.shape[:-1]:
        return tensor
    ours, theirs = np.array(classes).T
    mixed = value.astype(tensor.dtype)
    mixed[..., ours] = tensor[..., theirs]
    return mixed


def _unused_tensors(
    source: Source, used: set[str], present: set[str], initial: dict[Path, str]
) -> dict[str, str]:
    """Return the source's own name of each unused tensor, and the reason; "" if none is known.

    Args:
      source: of the tensors.
      used: canonical names of the tensors that are loaded.
      present: the groups with tensors in the source.
      initial: the reason of each variable of ours to keep its initial value, or "".
    """
    groups = {path[1] for path in initial}
    layers = {path[:-1] for path, why in initial.items() if why == REMADE}
    remade = {source.name((*layer, leaf)) for layer in layers for leaf in ("kernel", "bias")}
    return {
        original: REMADE if name in remade else _why_unused(source, name, groups, present)
        for name, (original, _) in source.tensors.items()
        if name not in used
    }


def _why_initial(path: Path, present: set[str], keep_classifiers: Any) -> str:
    """Return the reason why a variable keeps its initial value; "" to load a value."""
    if path[-2] == CLASSIFIER and not keep_classifiers:
        return REMADE
    if path[1] == "part_head" and "part_streams" not in present:
        return "the source has no part_streams"  # some published checkpoints have an idle head
    if path[1] in present or is_backbone(path) or stream_twin(path):
        return ""
    return f"the source has no {path[1]}"


def _problem(tensor: np.ndarray, shape: tuple[int, ...]) -> str:
    """Return the reason why a tensor cannot be a variable's value; "" if it can."""
    if tensor.shape != shape:
        return f"is {tensor.shape}, not {shape}"
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return f"is of type {tensor.dtype}"
    if not np.isfinite(tensor.astype(np.float32)).all():
        return "has values that are not finite"
    return ""


def _why_unused(source: Source, name: str, groups: set[str], present: set[str]) -> str:
    """Return the reason why the network has no use for a tensor; "" if none is known.

    Args:
      source: of the tensor.
      name: the tensor's canonical name.
      groups: the parts of the network: blk1, ..., part_head.
      present: the groups with tensors in the source.
    """
    if source.format == WORKDIR:
        group = name.split("/")[1]
        return "" if group in groups else f"the network has no {group}"
    rules = UNUSED[source.format]
    if "part_streams" not in groups:
        rules += ((_PARTS, "the network has no part streams"),)
    elif "part_streams" not in present:
        rules += ((_PARTS, "the source has no part streams"),)
    if "bi_attention" not in groups:
        rules += ((_ATTENTION, "the network has no Bi-attention"),)
    return next((why for pattern, why in rules if pattern.fullmatch(name)), "")


def _require_none(source: Source, **problems: list[str]) -> None:
    """Refuse a source with problems.

    Raises: UserError, naming a few tensors of each kind of problem.
    """
    words = {"missing": "missing", "unfit": "unfit", "unknown": "of unknown names"}
    parts = []
    for kind, names in problems.items():
        if names:
            more = ["..."] if len(names) > MAX_SHOWN else []
            parts.append(f"{len(names)} {words[kind]} ({'; '.join([*names[:MAX_SHOWN], *more])})")
    if parts:
        raise UserError(
            f"'{source.label}', {source.format}: tensors {', '.join(parts)}; nothing was loaded: "
            "check that the file is whole, and of the network that is to be filled"
        )
