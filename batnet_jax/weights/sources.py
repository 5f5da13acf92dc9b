"""Open a source of weights, find out its network, and compare it with the wanted one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.errors import ArgumentError, UserError
from batnet_jax.models import BATNet, osnet, parse_positions, resnet, vit
from batnet_jax.models.googlenet import STEM_WIDTHS, scaled
from batnet_jax.runtime.own_code import is_import_path
from batnet_jax.runtime.paths import is_folder
from batnet_jax.step.train_step import make_recipe, state_shapes
from batnet_jax.validation import check_trusted
from batnet_jax.weights import clip_names
from batnet_jax.weights.convert import HEAD_ATTRIBUTES, HEADS, WORKDIR, Source, flatten
from batnet_jax.weights.names import (
    BACKBONE,
    BATNET,
    CLIP,
    FASTREID,
    FORMATS,
    OSNET,
    OSNET_AIN,
    OSNET_IBN,
    RESNET,
    RESNET_IBN,
    TORCHVISION,
    VIT,
    canonical,
    find_prefixes,
    guess_format,
    strip_module,
)
from batnet_jax.weights.read_tensors import read_tensors
from batnet_jax.weights.resnet_names import check_fastreid, fastreid_backbone
from batnet_jax.weights.vit_names import STEM, as_ours, choose_variants, join_branch
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.same_run import saved_decay

# `BATNet`'s attributes that the weights depend on. A part's matter only if both networks have it.
BACKBONE_ATTRIBUTES = ("backbone", "width", *HEAD_ATTRIBUTES)
ATTENTION_ATTRIBUTES = (
    *("attention", "position", "reduction"),
    *("kernel", "rff_factor", "rff_bandwidth"),
)


def _named(family: Iterable[str], start: str) -> tuple[str, ...]:
    return tuple(name for name in family if name.startswith(start))


# The backbones that fit a format, the default first, and the convolution that shows the width.
FORMAT_BACKBONES = {
    BATNET: (("published",), "features.conv.conv1.0.weight"),
    BACKBONE: (("published",), "features.conv.conv1.0.weight"),
    TORCHVISION: (("torchvision", "torchvision_raw"), "conv1.conv.weight"),
    RESNET: (("resnet50",), "conv1.weight"),
    RESNET_IBN: (("resnet50_ibn",), "conv1.weight"),
    FASTREID: (_named(resnet.BACKBONES, "fastreid"), "backbone.conv1.weight"),
    OSNET: (_named(osnet.BACKBONES, "osnet_x"), "conv1.conv.weight"),
    OSNET_IBN: (_named(osnet.BACKBONES, "osnet_ibn"), "conv1.conv.weight"),
    OSNET_AIN: (_named(osnet.BACKBONES, "osnet_ain"), "conv1.conv.weight"),
    VIT: (tuple(vit.BACKBONES), STEM),
    CLIP: (_named(vit.BACKBONES, "vit_b16_clip"), STEM),
}


class OtherNetworkError(UserError):
    """The refusal of a source whose network is not the wanted one.

    Attributes:
      found: the attributes that differ, with the source's values.
    """

    def __init__(self, message: str, found: Mapping[str, Any]):
        super().__init__(message)
        self.found = found


def open_source(config: ml_collections.ConfigDict, path: Path) -> Source:
    """Open a PyTorch or .safetensors file, or the latest checkpoint of a workdir of this package.

    Args:
      config: validated; resolves what the shapes of tensors leave open.
      path: of the file or the workdir.

    Raises: UserError if the source cannot be read or its network is unknown.
    """
    return _open_workdir(config, path) if is_folder(path) else _open_file(config, path)


def _open_file(config: ml_collections.ConfigDict, path: Path) -> Source:
    given = read_tensors(path)
    prefix = _choose_prefix(config.init.prefix, path, given)
    tensors, left_out = {}, []
    for name, tensor in given.items():
        stripped = strip_module(name)
        if not stripped.startswith(prefix):
            left_out.append((name, "without the prefix"))
            continue
        key = canonical(stripped.removeprefix(prefix))
        if key in tensors:
            raise UserError(f"'{path}' holds '{key}' twice, as '{tensors[key][0]}' and '{name}'")
        tensors[key] = (name, tensor)
    form = guess_format(set(tensors))
    if form is None:
        few = ", ".join(sorted(given)[:3])
        raise UserError(
            f"'{path}' is none of {', '.join(FORMATS)}: its {len(given)} tensors are {few}, ..."
        )
    if form == FASTREID:
        check_fastreid(path, tensors)
    try:
        if form in (VIT, CLIP):
            tensors, left_out = _as_transformer(form, path, prefix, given, tensors, left_out)
        shapes = {name: tensor.shape for name, (_, tensor) in tensors.items()}
        model = describe(form, shapes, config.model, tuple(config.data.image_size))
    except UserError:
        raise
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"'{path}' has tensors of impossible shapes: check that it is whole"
        ) from error
    return Source(str(path), form, tensors, model, prefix=prefix, left_out=tuple(left_out))


def _as_transformer(
    form: str,
    path: Path,
    prefix: str,
    given: Mapping[str, np.ndarray],
    tensors: dict[str, tuple[str, np.ndarray]],
    left_out: list[tuple[str, str]],
) -> tuple[dict[str, tuple[str, np.ndarray]], list[tuple[str, str]]]:
    """Return a transformer's tensors by timm's names, in our form, and those that are left out.

    Args:
      form: `VIT` or `CLIP`.
      path: of the file, for messages.
      prefix: of the backbone.
      given: all tensors of the file, by its own names.
      tensors: see `Source`.
      left_out: see `Source`.
    """
    if form == CLIP:
        clipreid = prefix.endswith(clip_names.CLIPREID)
        root = prefix.removesuffix(clip_names.CLIPREID if clipreid else "visual.")
        names = [(name, strip_module(name).removeprefix(root), why) for name, why in left_out]
        left_out = [(own, clip_names.why_beside(name) or why) for own, name, why in names]
        return as_ours(path, clip_names.as_timm(tensors, clipreid=clipreid)), left_out
    by_name = {strip_module(name): (name, tensor) for name, tensor in given.items()}
    branch = join_branch(prefix.removesuffix("base."), by_name)
    taken = {name for name, _ in branch.values()}
    replaced = [tensors[key][0] for key in branch if key in tensors]
    left_out = [row for row in left_out if row[0] not in taken]
    left_out += [(name, "replaced by the global branch, b1") for name in replaced]
    return as_ours(path, tensors | branch), left_out


def _choose_prefix(wanted: str, path: Path, names: Iterable[str]) -> str:
    """Return the prefix that the tensors of the backbone share; "" = none.

    Args:
      wanted: see `open_source`; "" = the only one.
      path: of the file, for messages.
      names: of the tensors.

    Raises: ArgumentError if several prefixes have a backbone, or no name has the wanted one.
    """
    found = find_prefixes(names)
    if wanted:
        prefix = strip_module(wanted).rstrip(".") + "."
        if not any(strip_module(name).startswith(prefix) for name in names):
            seen = ", ".join(map(repr, filter(None, found))) or "none"
            raise ArgumentError(
                "prefix", f"'{path}' has no tensor under {wanted!r}: it has backbones under {seen}"
            )
        return prefix
    if len(found) > 1 and "" not in found:
        seen = " and ".join(map(repr, found))
        raise ArgumentError(
            "prefix", f"'{path}' holds {len(found)} backbones, under {seen}: choose one"
        )
    return found[0] if found else ""


def describe(
    form: str,
    shapes: Mapping[str, tuple[int, ...]],
    model: ml_collections.ConfigDict,
    image_size: tuple[int, int],
) -> dict[str, Any]:
    """Return the attributes of `BATNet` that the shapes of a file's tensors show.

    `model` decides between several values of an attribute that fit the shapes.

    Args:
      form: one of `names.FORMATS`.
      shapes: of the tensors, by canonical name.
      model: the attributes of the wanted network.
      image_size: (height, width) of its images in pixels.
    """
    backbones, stem = FORMAT_BACKBONES[form]
    if form in (VIT, CLIP) and stem in shapes:
        backbones = choose_variants(shapes, model.backbone, image_size)
    if form == FASTREID:
        backbones = (fastreid_backbone(shapes),)
    found: dict[str, Any] = {}
    if stem in shapes:
        found["backbone"], found["width"] = _choose_backbone(backbones, shapes[stem][0], model)
    else:
        found["backbone"] = _own_first(backbones, model)[0]
    if form == BATNET:
        found |= _describe_batnet(shapes, model)
    elif form == FASTREID and "heads.bottleneck.0.weight" in shapes:
        neck = "bnneck_gem" if "heads.pool_layer.p" in shapes else "bnneck"
        found |= {"neck": neck, "embedding_dim": 0}
    elif form == CLIP and clip_names.PROJECTION in shapes:
        found |= {"neck": "bnneck", "embedding_dim": shapes[clip_names.PROJECTION][0]}
    elif "fc.0.weight" in shapes and form in HEADS:
        found |= {"neck": "fc", "embedding_dim": shapes["fc.0.weight"][0]}
    return found


def _own_first(backbones: Sequence[str], model: ml_collections.ConfigDict) -> list[str]:
    """Return backbones, with the wanted network's first if it is among them."""
    return sorted(backbones, key=lambda name: name != model.get("backbone", "published"))


def _choose_backbone(
    backbones: Sequence[str], channels: int, model: ml_collections.ConfigDict
) -> tuple[str, float]:
    """Return the backbone and the width whose first convolution has `channels` channels.

    Of several that fit, the wanted network's are chosen, then a backbone at width 1.
    """

    def stem(name: str, width: float) -> int:
        if name in vit.BACKBONES:
            return vit.embed_dim(vit.BACKBONES[name], width)
        own = osnet.BACKBONES[name].width if name in osnet.BACKBONES else 1.0
        return scaled(STEM_WIDTHS[0], own * width)

    names = _own_first(backbones, model)
    if names[0] == model.get("backbone") and stem(names[0], model.width) == channels:
        return names[0], model.width
    for name in names:
        if stem(name, 1.0) == channels:
            return name, 1.0
    return names[0], channels / stem(names[0], 1.0)


def _describe_batnet(
    shapes: Mapping[str, tuple[int, ...]], model: ml_collections.ConfigDict
) -> dict[str, Any]:
    found: dict[str, Any] = {"neck": "none"}
    if "fc_global.1.weight" in shapes:
        found["embedding_dim"] = shapes["fc_global.1.weight"][0]
    streams = {
        name.split(".")[2] for name in shapes if name.startswith("features.inception2_local")
    }
    found["num_parts"] = len(streams)
    if streams:
        found["part_sampling"] = "published"
    attention = "features.bilinearatt_global.dimReduceLayer{}.conv.conv.weight"
    if attention.format(1) not in shapes:
        return found | {"attention": "none"}
    embedded, channels = shapes[attention.format(1)][:2]
    same = max(1, channels // model.reduction) == embedded
    return found | {
        "attention": "aia" if attention.format(3) in shapes else "plain",
        "position": "p2",
        "kernel": "bilinear",
        "reduction": model.reduction if same else channels // embedded,
    }


def check_agrees(source: Source, model: ml_collections.ConfigDict, *, whole: bool) -> None:
    """Check that a source's network is the wanted one, before its tensors are compared.

    Args:
      source: of any format.
      model: the attributes of the wanted network.
      whole: every attribute must agree. Otherwise only one of the networks may have attention, or
        parts, and the part sampling may differ.

    Raises: OtherNetworkError that names the attributes and both values.
    """
    found = dict(source.model)
    if model.kernel != "rff":
        found = {k: v for k, v in found.items() if not k.startswith("rff_")}
    if not whole:
        found.pop("part_sampling", None)
        if "none" in (found.get("attention"), model.attention):
            found = {k: v for k, v in found.items() if k not in ATTENTION_ATTRIBUTES}
        if 0 in (found.get("num_parts"), model.num_parts):
            found.pop("num_parts", None)
    wrong = {k: v for k, v in found.items() if k in model and not _equal(k, v, model[k])}
    if wrong:
        has = ", ".join(f"{name}={value}" for name, value in wrong.items())
        wanted = ", ".join(str(model[name]) for name in wrong)
        raise OtherNetworkError(
            f"'{source.label}', {source.format}, has {has}, not {wanted}", found=wrong
        )


def _equal(name: str, one: Any, other: Any) -> bool:
    """Tell if two values of an attribute mean the same."""
    return parse_positions(one) == parse_positions(other) if name == "position" else one == other


def _open_workdir(config: ml_collections.ConfigDict, workdir: Path) -> Source:
    step = checkpoints.choose_step(workdir, 0)
    run = checkpoints.restore_metadata(workdir, step)
    saved = config.copy_and_resolve_references()
    with saved.unlocked():
        saved.model = ml_collections.ConfigDict(run["model"])
    own = [f"model.{name}" for name in config.model if config.model[name] == saved.model.get(name)]
    check_trusted(saved, workdir, sections=("model",), given=own)
    try:
        recipe = make_recipe(saved, num_identities=len(run["identities"]), steps_per_epoch=1)
        # Few shapes depend on the image size: elsewhere it is the smallest with rows for T parts.
        size = (16 * max(1, saved.model.num_parts), 16)
        backbone = saved.model.get("backbone")
        if is_import_path(backbone) or backbone in vit.BACKBONES:
            size = tuple(run["config"]["data"]["image_size"])
        shapes = state_shapes(recipe._replace(ema_decay=saved_decay(run)), size)
    except UserError:
        raise
    except Exception as error:  # impossible settings can raise anything
        raise UserError(f"'{workdir}' has no network of this version: restore it") from error
    state = checkpoints.restore_state(workdir, step, shapes)
    variables = state.tested()
    tensors = {(name := "/".join(path)): (name, leaf) for path, leaf in flatten(variables).items()}
    attributes = (*BACKBONE_ATTRIBUTES, *ATTENTION_ATTRIBUTES, "num_parts")
    # An attribute that is younger than the run has its default.
    model = {name: run["model"].get(name, getattr(BATNet, name)) for name in attributes}
    return Source(str(workdir), WORKDIR, tensors, model, [list(i) for i in run["identities"]])
