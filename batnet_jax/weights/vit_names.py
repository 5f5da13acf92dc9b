"""The names of a vision transformer in timm and in programs that build on it, and its positions.

TransReID (`base.`) keeps copies of the last layer beside the backbone, and DINOv2 has other names
for a few tensors. A file holds the positions of all tokens in one tensor. Our network has a map of
positions, and adds the class token's position to the token itself.
"""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.models import vit
from batnet_jax.models.preprocess import HALF
from batnet_jax.weights import clip_names

ANCHOR = "blocks.0.attn.qkv.weight"
STEM = "patch_embed.proj.weight"
TOKEN, POSITIONS, REGISTERS = "cls_token", "pos_embed", "reg_token"
OLD_NAMES = {"register_tokens": REGISTERS}
"""DINOv2's own names."""
_LEAVES = {"token": TOKEN, "positions": POSITIONS, "registers": REGISTERS}
_SCALES = {"scale1_gamma": "ls1.gamma", "scale2_gamma": "ls2.gamma"}
_LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_JOINT = re.compile(r"b1\.([01])\.(.+)")
"""The layer and the normalisation of TransReID's global branch, which it trains in place of the
backbone's own last ones."""
_LAST = {"0": f"blocks.{4 * vit.LAYERS - 1}", "1": "norm"}
Tensors = Mapping[str, tuple[str, np.ndarray]]


def vit_name(path: tuple[str, ...], leaves: Mapping[str, str]) -> str | None:
    """Return the name of a variable in timm's vision transformer; None if it is not of it.

    Args:
      path: of the variable.
      leaves: PyTorch's name of each kind of leaf.
    """
    match path[1:]:
        case "blk1", leaf if leaf in _LEAVES:
            return _LEAVES[leaf]
        case "blk1", "patch", leaf:
            return f"patch_embed.proj.{leaves[leaf]}"
        case "blk1", "norm_pre", leaf:
            return f"norm_pre.{leaves[leaf]}"
        case "blk4", "norm", leaf:
            return f"norm.{leaves[leaf]}"
        case ("blk1" | "blk2" | "blk3" | "blk4") as block, layer, *rest:
            first = vit.LAYERS * (int(block.removeprefix("blk")) - 1)
            place = f"blocks.{first + int(layer.removeprefix('layer'))}"
            if len(rest) == 1:
                return f"{place}.{_SCALES[rest[0]]}"
            module, leaf = rest
            return f"{place}.{_LAYERS.get(module, module)}.{leaves[leaf]}"
    return None


def choose_variants(
    shapes: Mapping[str, tuple[int, ...]], wanted: str, image_size: tuple[int, int]
) -> tuple[str, ...]:
    """Return the backbones that a file's tensors fit, the most likely first.

    Args:
      shapes: of the tensors, by canonical name, after `as_ours`.
      wanted: the backbone of the wanted network, which settles what no tensor shows.
      image_size: (height, width) in pixels of the wanted network's images.
    """
    registers = shapes.get(REGISTERS, (1, 0, 0))[1]
    scaled = f"{_LAST['0']}.ls1.gamma" in shapes
    pre_norm = "norm_pre.weight" in shapes
    clipreid = shapes.get(clip_names.PROJECTION, (0,))[0] > shapes[STEM][0]
    grid = shapes.get(POSITIONS, (0, 0))[:2]

    def fits(variant: vit.Variant) -> bool:
        found = (shapes[STEM][-1], registers, scaled, pre_norm)
        own = (variant.patch, variant.registers, variant.layer_scale, variant.pre_norm)
        return own == found

    names = [name for name, variant in vit.BACKBONES.items() if fits(variant)]
    if not names:
        side = shapes[STEM][-1]
        raise UserError(
            f"no transformer here has patches of {side} x {side} pixels, {registers} registers, "
            f"{'a' if scaled else 'no'} LayerScale and {'a' if pre_norm else 'no'} norm before the "
            "first layer, as the file has: batnet weights lists what can be read"
        )
    channels = shapes[STEM][0]

    def order(name: str) -> tuple:
        variant = vit.BACKBONES[name]
        size_fits = vit.embed_dim(variant, 1.0) == channels
        overlap = variant.stride < variant.patch
        sizes = (image_size, (256, 128), (384, 128))
        has_overlap = grid in {grid_of(size, variant) for size in sizes}
        other_pixels = pre_norm and clipreid != (variant.pixels == HALF)
        return name != wanted, not size_fits, other_pixels, overlap and not has_overlap, not overlap

    return tuple(sorted(names, key=order))


def grid_of(image_size: tuple[int, int], variant: vit.Variant) -> tuple[int, int]:
    """Return the rows and columns of the patches of an image of (height, width) pixels."""
    height, width = ((side - variant.patch) // variant.stride + 1 for side in image_size)
    return height, width


def as_ours(path: object, tensors: Tensors) -> dict[str, tuple[str, np.ndarray]]:
    """Return the tensors of a file with the class token and the positions in our form.

    Args:
      path: of the file, for messages.
      tensors: canonical name to the file's own name and the tensor.
    Returns: `cls_token` [c], with its position, and `pos_embed` [h, w, c].

    Raises: UserError if the numbers of positions and of tokens differ.
    """
    ours = dict(tensors)
    if POSITIONS not in ours or TOKEN not in ours:
        return ours
    (own, positions), (token_name, token) = ours[POSITIONS], ours[TOKEN]
    positions, token = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (positions, token))
    if token.shape[-1] != positions.shape[-1]:
        raise UserError(f"'{path}' has {token_name} and {own} of different widths: is it whole?")
    alone = REGISTERS in ours and shape_of_grid(len(positions)) is not None
    if not alone:  # timm's networks with registers have positions of patches alone
        token, positions = _add(token, positions[:1]), positions[1:]
        token_name = f"{token_name} + {own}[0]"
    grid = shape_of_grid(len(positions))
    if grid is None:
        raise UserError(f"'{path}' has {len(positions)} positions in {own}, which are not a grid")
    ours[TOKEN] = token_name, token.reshape(-1)
    ours[POSITIONS] = own, positions.reshape(*grid, -1)
    return ours


def _add(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return a sum of tensors, in float32 if they have fewer bits; other types unchanged."""
    if all(jnp.issubdtype(tensor.dtype, jnp.floating) for tensor in (one, other)):
        one, other = one.astype(np.float32), other.astype(np.float32)
    return one + other


def shape_of_grid(count: int) -> tuple[int, int] | None:
    """Return the rows and columns of `count` patches: a square, else an upright grid for people.

    Of the grids that have 1.8 to 3.4 times as many rows as columns, the first one is taken: 16 x 8
    and 21 x 10 for 256 x 128 pixels, 24 x 8 and 31 x 10 for 384 x 128. None if no grid fits.
    """
    side = math.isqrt(count)
    if side and side * side == count:
        return side, side
    for columns in range(side, 0, -1):
        rows = count // columns
        if rows * columns == count and 1.8 <= rows / columns <= 3.4:
            return rows, columns
    return None


def join_branch(root: str, given: Tensors) -> dict[str, tuple[str, np.ndarray]]:
    """Return the tensors of TransReID's global branch by their names in the backbone.

    Args:
      root: the prefix of the whole network, before `base.`.
      given: the file's names without `module.` to its own names and the tensors.
    """
    found = {}
    for name, tensor in given.items():
        if name.startswith(root) and (match := _JOINT.fullmatch(name.removeprefix(root))):
            found[f"{_LAST[match[1]]}.{match[2]}"] = tensor
    return found


def resize_positions(tensor: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Return the positions [h, w, c] of another grid, by cubic interpolation as timm has it.

    The weights are normalised at the edges, and a smaller grid is smoothed.
    """
    resized = jax.image.resize(
        jnp.asarray(tensor, jnp.float32), (*grid, tensor.shape[-1]), "cubic", antialias=True
    )
    return np.asarray(resized)
