"""The PyTorch names of our variables, as tables, and the order of Bi()'s channels.

A variable's path leads to its leaf in `{"params": ..., "batch_stats": ...}`, for instance
`("params", "blk1", "conv1", "conv", "kernel")`. The names come from the published code
(Attention-in-Attention-Networks, `models/bilinear_aia_noHard_net.py`), from torchvision's
`models/googlenet.py` and `models/resnet.py`, from FastReID (`resnet_names`) and from Torchreid
(`osnet_names`), from timm (`vit_names`) and from CLIP (`clip_names`).
"""

import re
from collections.abc import Iterable
from functools import partial

import numpy as np

from batnet_jax.weights import clip_names, resnet_names, vit_names
from batnet_jax.weights.osnet_names import osnet_module

Path = tuple[str, ...]

BATNET = "BAT-net"  # a published checkpoint: the whole network
BACKBONE = "published backbone"  # `inceptionV1_bn_noModule.pth.tar`
TORCHVISION = "torchvision googlenet"
RESNET = "torchvision resnet50"
RESNET_IBN = "IBN-Net resnet50_ibn_a"
FASTREID = "FastReID resnet50"
OSNET = "Torchreid osnet"
OSNET_IBN = "Torchreid osnet_ibn"
OSNET_AIN = "Torchreid osnet_ain"
VIT = "timm vision transformer"
CLIP = "CLIP image tower"
FORMATS = (BATNET, BACKBONE, TORCHVISION, RESNET, RESNET_IBN, FASTREID)
FORMATS += (OSNET, OSNET_IBN, OSNET_AIN, VIT, CLIP)

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "power": "p",
}
PUBLISHED_LAYERS = {"conv": "0", "bn": "1"}  # a Sequential of convolution, BN, ReLU
PUBLISHED_BRANCHES = {
    "one": "conv1",
    "reduce3": "conv3_1",
    "three": "conv3_3",
    "reduce5": "conv5_1",
    "five": "conv5_5",
    "pool": "conv_max_1",
}
PUBLISHED_BLOCKS = {"blk2": "inception1", "blk3": "inception2", "blk4": "inception3"}
PUBLISHED_ATTENTION = {
    "embed": "dimReduceLayer1",
    "local": "dimReduceLayer2",
    "global": "dimReduceLayer3",
}
PUBLISHED_HEADS = {"appearance_head": ("norm1_1", "global"), "part_head": ("norm1_2", "local")}
TORCHVISION_BRANCHES = {
    "one": "branch1",
    "reduce3": "branch2.0",
    "three": "branch2.1",
    "reduce5": "branch3.0",
    "five": "branch3.1",
    "pool": "branch4.1",
}

# The name of a backbone's tensor, with or without the names of the enclosing modules.
_STEM = re.compile(r"(?:features\.)?(?:conv\.)?(conv[123]\.[01]\.\w+)")
_INCEPTION = re.compile(r"(?:features\.)?(?:inception[123]\.)?(inception_([345])[a-e]\..+)")


def is_backbone(path: Path) -> bool:
    """Tell if a variable belongs to the backbone itself: Blk1 to Blk4."""
    return path[1] in ("blk1", "blk2", "blk3", "blk4")


def is_bilinear(path: Path) -> bool:
    """Tell if a variable is a kernel with Bi()'s channels as its input."""
    return path[1] == "bi_attention" and path[2] in ("local", "global") and path[-1] == "kernel"


def stream_twin(path: Path) -> Path | None:
    """Return the backbone's variable that initialises a part stream's; None for other variables."""
    if path[1] != "part_streams":
        return None
    block = path[2].split("_")[1]
    return (path[0], block, *path[3:])


def published_name(path: Path) -> str | None:
    """Return the name in a published BAT-net checkpoint; None if it cannot hold the variable."""
    module = _published_module(path[1:-1])
    return f"{module}.{LEAVES[path[-1]]}" if module else None


def _published_module(module: Path) -> str | None:
    match module:
        case "blk1", conv, layer:
            return f"features.conv.{conv}.{PUBLISHED_LAYERS[layer]}"
        case ("blk2" | "blk3" | "blk4") as block, inception, branch, layer:
            place = PUBLISHED_BLOCKS[block]
        case "part_streams", stream, inception, branch, layer:
            number, block = stream.removeprefix("stream").split("_")
            place = f"{PUBLISHED_BLOCKS[block]}_local.{number}"
        case "bi_attention", part, layer:
            return f"features.bilinearatt_global.{PUBLISHED_ATTENTION[part]}.conv.{layer}"
        case ("appearance_head" | "part_head") as head, layer:
            norm, stream = PUBLISHED_HEADS[head]
            names = {
                "map_bn": f"features.{norm}",
                "embedding": f"fc_{stream}.1",
                "bn": f"fc_{stream}.2",
                "classifier": f"classifier_{stream}.1",
            }
            return names.get(layer)
        case _:
            return None
    return f"features.{place}.{inception}.{PUBLISHED_BRANCHES[branch]}.{PUBLISHED_LAYERS[layer]}"


def torchvision_name(path: Path) -> str | None:
    """Return the name in torchvision's `googlenet`; None if not of the backbone."""
    match path[1:-1]:
        case "blk1", conv, layer:
            module = f"{conv}.{layer}"
        case "blk2" | "blk3" | "blk4", inception, branch, layer:
            module = f"{inception.replace('_', '')}.{TORCHVISION_BRANCHES[branch]}.{layer}"
        case _:
            return None
    return f"{module}.{LEAVES[path[-1]]}"


def resnet_name(path: Path) -> str | None:
    """Return the name in torchvision's `resnet50`; None if not of the backbone."""
    module = resnet_names.resnet_module(path[1:-1])
    return f"{module}.{LEAVES[path[-1]]}" if module else None


def fastreid_name(path: Path) -> str | None:
    """Return the name in FastReID's ResNet-50 with a BNNeck; None if not of it."""
    module = resnet_names.fastreid_module(path[1:-1])
    return f"{module}.{LEAVES[path[-1]]}" if module else None


def osnet_name(path: Path, *, listed: bool = False) -> str | None:
    """Return the name in Torchreid's `osnet`, or `osnet_ain` if listed; None if not of it."""
    module = osnet_module(path[1:-1], listed=listed)
    return f"{module}.{LEAVES[path[-1]]}" if module else None


def clip_name(path: Path) -> str | None:
    """Return the canonical name in CLIP's image tower or its head; None if not of it."""
    return vit_names.vit_name(path, LEAVES) or clip_names.head_name(path, LEAVES)


NAMES = {
    BATNET: published_name,
    BACKBONE: published_name,
    TORCHVISION: torchvision_name,
    RESNET: resnet_name,
    RESNET_IBN: resnet_name,
    FASTREID: fastreid_name,
    OSNET: osnet_name,
    OSNET_IBN: osnet_name,
    OSNET_AIN: partial(osnet_name, listed=True),
    VIT: partial(vit_names.vit_name, leaves=LEAVES),
    CLIP: clip_name,
}


def canonical(name: str) -> str:
    """Return a tensor's name in the form that `published_name` and its like return.

    Every leading `module.` is removed. A file may name a layer of a backbone as the published
    checkpoint does (`features.inception1.inception_3a...`), or without `features.`, or also without
    the block (`inception_3a...`, as in the published code's ImageNet file).
    """
    name = strip_module(name)
    if match := _STEM.fullmatch(name):
        return f"features.conv.{match[1]}"
    if match := _INCEPTION.fullmatch(name):
        return f"features.inception{int(match[2]) - 2}.{match[1]}"
    return (resnet_names.OLD_NAMES | vit_names.OLD_NAMES).get(name, name)


ANCHORS = {
    "inception3a.branch1.conv.weight",
    "layer1.0.conv3.weight",
    "features.inception1.inception_3a.conv1.0.weight",
    "conv2.0.conv2a.conv1.weight",
    "conv2.0.conv2.0.layers.0.conv1.weight",
    vit_names.ANCHOR,
    clip_names.ANCHOR,
}
"""Canonical names; each backbone has exactly one of them."""
FOLLOWERS = ("encoder_k", "momentum_encoder", "target_encoder", "encoder_ema", "model_ema")
"""Modules that follow the trained one in self-supervised learning, as a moving average."""


def strip_module(name: str) -> str:
    """Return a name without the leading `module.` of PyTorch's data parallelism."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def find_prefixes(names: Iterable[str]) -> list[str]:
    """Return the prefixes under which names hold a backbone, sorted; "" = none.

    A prefix ends with a dot, as in `backbone.`, and does not contain a leading `module.`. Modules
    that only follow another one, see `FOLLOWERS`, are left out.
    """
    found = set()
    names = [strip_module(name) for name in names]
    for name in names:
        parts = name.split(".")
        starts = (i for i in range(len(parts)) if canonical(".".join(parts[i:])) in ANCHORS)
        if (first := next(starts, None)) is not None:
            found.add(_with_head(".".join([*parts[:first], ""]) if first else "", names))
    leading = {prefix for prefix in found if not set(prefix.split(".")) & set(FOLLOWERS)}
    return sorted(leading or found)


def _with_head(prefix: str, names: Iterable[str]) -> str:
    """Return the prefix of a backbone, or of backbone and head if it is FastReID's."""
    root = prefix.removesuffix(resnet_names.BACKBONE)
    head = f"{root}{resnet_names.HEAD}bottleneck."
    return root if root != prefix and any(name.startswith(head) for name in names) else prefix


def guess_format(names: set[str]) -> str | None:
    """Return the format, one of `FORMATS`, with such canonical names; None if unknown."""
    if "inception3a.branch1.conv.weight" in names:
        return TORCHVISION
    if {"bn1.weight", "layer1.0.conv3.weight"} <= names:  # no bottleneck in ResNet-18 and -34
        return RESNET_IBN if "layer1.0.bn1.IN.weight" in names else RESNET
    if {"backbone.bn1.weight", "backbone.layer1.0.conv3.weight"} <= names:
        return FASTREID
    if "features.norm1_1.weight" in names or "fc_global.1.weight" in names:
        return BATNET
    if "features.inception1.inception_3a.conv1.0.weight" in names:
        return BACKBONE
    if "conv2.0.conv2a.conv1.weight" in names:
        return OSNET_IBN if "conv2.0.IN.weight" in names else OSNET
    if "conv2.0.conv2.0.layers.0.conv1.weight" in names:
        return OSNET_AIN
    if vit_names.ANCHOR in names:
        return VIT
    return CLIP if clip_names.is_clip(names) else None


def bilinear_order(channels: int) -> np.ndarray:
    """Return the position of each channel of our Bi() in the published code's Bi().

    Our channels are the pairs (0, 0), (0, 1), ..., (1, 1), ...: the upper triangle row by row. The
    published code's are the diagonals 0, -1, -2, ...: element k of diagonal -i is (k, k + i).

    Args:
      channels: c of the embedded map.
    Returns: [c (c + 1) / 2] int; our channel n is the published code's channel order[n].
    """
    rows, columns = np.triu_indices(channels)
    diagonal = columns - rows
    start = diagonal * channels - diagonal * (diagonal - 1) // 2  # channels of earlier diagonals
    return start + rows
