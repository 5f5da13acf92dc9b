"""CLIP's image tower by its own names, as OpenAI, open_clip and CLIP-ReID have them.

The tower lies under `visual.` (OpenAI, open_clip) or `image_encoder.` (Li et al., "CLIP-ReID",
AAAI 2023). Its layers get timm's names here, see `vit_names`. The projection is the layer of a head
whose neck changes nothing.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

ANCHOR = "class_embedding"
PROJECTION, NECK = "proj.weight", "neck."
IDENTITY = "identity"
"""The name of tensors that are made here, whose values change nothing."""
EPSILON = 1e-5  # epsilon of the neck's batch normalisation
CLIPREID = "image_encoder."
_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.weight": "patch_embed.proj.weight",
}
_MODULES = {"ln_pre": "norm_pre", "ln_post": "norm"}
_LAYERS = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_JOINT = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_BESIDE = (
    (re.compile(r"cv_embed"), "of cameras, which our network does not take"),
    (re.compile(r"classifier(_proj)?\..*"), "classifier of other identities"),
    (re.compile(r"bottleneck(_proj)?\..*"), "of the classifiers: the authors test without it"),
    (re.compile(r"(text_encoder|prompt_learner|transformer|token_embedding)\..*"), "of the text"),
    (re.compile(r"ln_final\..*|positional_embedding|text_projection"), "of the text"),
    (re.compile(r"logit_(scale|bias)|input_resolution|context_length|vocab_size"), "of the text"),
)
"""Tensors beside the tower, and why they are left out."""
Tensors = Mapping[str, tuple[str, np.ndarray]]


def is_clip(names: set[str]) -> bool:
    """Tell whether a file has CLIP's image tower, a transformer."""
    return {ANCHOR, "ln_pre.weight", "transformer.resblocks.0.attn.in_proj_weight"} <= names


def timm_name(name: str) -> str:
    """Return timm's name of a tensor of the tower; another name unchanged."""
    if name in _NAMES:
        return _NAMES[name]
    module, _, leaf = name.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{leaf}"
    if match := _JOINT.fullmatch(name):
        return f"blocks.{match[1]}.attn.qkv.{match[2]}"
    if (match := _LAYER.fullmatch(name)) and match[2] in _LAYERS:
        return f"blocks.{match[1]}.{_LAYERS[match[2]]}.{match[3]}"
    return name


def as_timm(tensors: Tensors, *, clipreid: bool) -> dict[str, tuple[str, np.ndarray]]:
    """Return the tensors of a tower by timm's names, and its projection as a head.

    Args:
      tensors: name in the tower to the file's own name and the tensor.
      clipreid: the feature is the tower's own beside the projected one, as in CLIP-ReID;
        otherwise only the projected one.
    """
    # A name of the head's or of timm's in the file would be taken for another tensor.
    ours = {
        timm_name(name) if name == "proj" or timm_name(name) != name else f"not CLIP's: {name}": own
        for name, own in tensors.items()
    }
    own, projection = ours.get("proj", ("", np.zeros(0)))
    if projection.ndim != 2:
        return ours
    del ours["proj"]
    kernel = projection.T
    if clipreid:
        own = f"{IDENTITY} and {own}"
        kernel = np.concatenate([np.eye(kernel.shape[1]).astype(kernel.dtype), kernel])
    ours[PROJECTION] = own, kernel
    for leaf, value in (("weight", 1.0), ("running_mean", 0.0), ("running_var", 1 - EPSILON)):
        ours[f"{NECK}{leaf}"] = IDENTITY, np.full(len(kernel), value, np.float32)
    return ours


def head_name(path: Sequence[str], leaves: Mapping[str, str]) -> str | None:
    """Return the canonical name of a variable of the head of `as_timm`; None for others.

    Args:
      path: of the variable.
      leaves: PyTorch's name of each kind of leaf.
    """
    match tuple(path[1:]):
        case "appearance_head", "embedding", "kernel":
            return PROJECTION
        case "appearance_head", "neck", leaf:
            return f"{NECK}{leaves[leaf]}"
    return None


def why_beside(name: str) -> str:
    """Return the reason why a tensor beside the tower is left out; "" if none is known."""
    return next((why for pattern, why in _BESIDE if pattern.fullmatch(name)), "")
