"""The vision transformer in four blocks of three layers, whose tokens are a map.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021: ViT-S/16 and ViT-B/16. Variants:
overlapping patches (He et al., "TransReID", ICCV 2021); LayerScale (Touvron et al., "Going Deeper
with Image Transformers", ICCV 2021), as DINOv2 has it (Oquab et al., TMLR 2024); registers (Darcet
et al., "Vision Transformers Need Registers", ICLR 2024); CLIP's image tower (Radford et al.,
"Learning Transferable Visual Models From Natural Language Supervision", ICML 2021). Layers and
their order are those of timm's weights.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from batnet_jax.models.preprocess import CLIP, HALF, IMAGENET, PIXELS
from batnet_jax.models.token_map import TokenMap

LAYERS = 3
"""Layers of a block: four blocks have twelve."""
EXPANSION = 4  # channels of the hidden layer over those of a token
HEAD_DIM = 64  # channels of an attention's head
SCALE_START = 1e-5  # LayerScale's initial value (DINOv2)
_LECUN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_SMALL = nn.initializers.normal(0.02)


class Variant(NamedTuple):
    """A variant of the vision transformer.

    Attributes:
      heads: of an attention, of `HEAD_DIM` channels each.
      patch: side of a patch in pixels.
      stride: from patch to patch, in pixels; below `patch` they overlap.
      mean: the last map has the tokens of the patches; otherwise it is only the class token.
      pixels: the preparation of pixels, a key of `preprocess.PIXELS`; timm and TransReID take -1
        to 1.
      layer_scale: scale each channel of a residual.
      registers: tokens beside the class token.
      pre_norm: normalise the tokens before the first layer; patches have no bias then (CLIP).
      quick_gelu: use `quick_gelu`, not `gelu` (CLIP).
      epsilon: of the layer normalisations.
    """

    heads: int
    patch: int = 16
    stride: int = 16
    mean: bool = False
    pixels: str = HALF
    layer_scale: bool = False
    registers: int = 0
    pre_norm: bool = False
    quick_gelu: bool = False
    epsilon: float = 1e-6


_HEADS = {"s": 6, "b": 12}
_KINDS = {
    "16": {},
    "16_stride12": {"stride": 12},
    "16_mean": {"mean": True},
    "16_dino": {"pixels": IMAGENET},
    "14_dinov2": {"patch": 14, "stride": 14, "pixels": IMAGENET, "layer_scale": True},
    "14_dinov2_reg4": {
        **{"patch": 14, "stride": 14, "pixels": IMAGENET, "layer_scale": True},
        "registers": 4,
    },
}
_CLIP = Variant(_HEADS["b"], pixels=CLIP, pre_norm=True, quick_gelu=True, epsilon=1e-5)
BACKBONES: Mapping[str, Variant] = {
    **{
        f"vit_{size}{kind}": Variant(heads, **options)
        for size, heads in _HEADS.items()
        for kind, options in _KINDS.items()
    },
    "vit_b16_clip": _CLIP,
    "vit_b16_clip_gelu": _CLIP._replace(quick_gelu=False),  # LAION's
    "vit_b16_clipreid": _CLIP._replace(pixels=HALF),
    "vit_b16_clipreid_stride12": _CLIP._replace(pixels=HALF, stride=12),
}


def embed_dim(variant: Variant, width: float) -> int:
    """Return the channels of a token at the multiplier `width`, a multiple of the heads."""
    return variant.heads * max(1, round(HEAD_DIM * width))


class Layer(nn.Module):
    """Attention and two dense layers, each behind a layer normalisation and beside a shortcut.

    Attributes:
      variant: see `Variant`.
      dtype: of the products; the sums have the input's type.
    """

    variant: Variant
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map the tokens [b, t, c] to [b, t, c]."""
        channels, heads, epsilon = x.shape[-1], self.variant.heads, self.variant.epsilon
        dense = partial(nn.Dense, kernel_init=_LECUN, dtype=self.dtype)
        activate = quick_gelu if self.variant.quick_gelu else gelu
        y = normalise(x, self.dtype, "norm1", epsilon)
        y = dense(3 * channels, name="qkv")(y)
        y = y.reshape(*y.shape[:2], 3, heads, channels // heads)
        y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
        y = dense(channels, name="proj")(y.reshape(x.shape))
        x = x + self._scaled(y, "scale1").astype(x.dtype)
        y = normalise(x, self.dtype, "norm2", epsilon)
        y = activate(dense(EXPANSION * channels, name="fc1")(y))
        y = dense(channels, name="fc2")(y)
        return x + self._scaled(y, "scale2").astype(x.dtype)

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        if not self.variant.layer_scale:
            return y
        start = nn.initializers.constant(SCALE_START)
        return y * self.param(f"{name}_gamma", start, (y.shape[-1],)).astype(y.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the probability that a normal number is below x (Hendrycks & Gimpel 2016).

    `jax.nn.gelu` would become an operation that ONNX has only from version 20 on.
    """
    return x * (0.5 * (1 + lax.erf(x * 0.5**0.5)))


def quick_gelu(x: jax.Array) -> jax.Array:
    """Return CLIP's approximation of `gelu` by a logistic function."""
    return x * nn.sigmoid(1.702 * x)


def normalise(x: jax.Array, dtype: Any, name: str, epsilon: float) -> jax.Array:
    """Return tokens with mean 0 and variance 1 over the channels, scaled and shifted."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)(x)


class Block(nn.Module):
    """One of the four blocks; the first makes the tokens, the last normalises them.

    The sums of Blk4 are at least float32; see `googlenet.Block`.

    Attributes:
      number: 1 to 4; the block ends at p1, p2, p3 or p4.
      variant: see `Variant`.
      width: multiplier of the channels.
      axis_name: not used, as no statistics are taken over images.
      dtype: of the computation.
    """

    number: int
    variant: Variant
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | TokenMap, *, train: bool) -> jax.Array | TokenMap:
        """Compute the next position's map, [b, h', w', c], h' = (h - patch) // stride + 1.

        Args:
          x: normalised images [b, h, w, 3], or the previous position's.
          train: without effect.
        Returns: the map and the tokens beside it. The last block returns only a map: of the
          patches, or [b, 1, 1, c] of the class token.
        """
        del train
        image_tokens = x if isinstance(x, TokenMap) else self._embed(x)
        if self.number == 4:
            dtype = jnp.promote_types(self.dtype, jnp.float32)
            image_tokens = jax.tree.map(lambda a: a.astype(dtype), image_tokens)
        b, height, w, c = image_tokens.map.shape
        count = image_tokens.tokens.shape[1]
        sequence = jnp.concatenate(
            [image_tokens.tokens, image_tokens.map.reshape(b, height * w, c)], axis=1
        )
        epsilon = self.variant.epsilon
        if self.number == 1 and self.variant.pre_norm:
            sequence = normalise(sequence, sequence.dtype, "norm_pre", epsilon)
        for i in range(LAYERS):
            sequence = Layer(self.variant, self.dtype, name=f"layer{i}")(sequence)
        if self.number == 4:
            if not self.variant.mean:
                return normalise(sequence[:, None, :1], sequence.dtype, "norm", epsilon)
            sequence = normalise(sequence, sequence.dtype, "norm", epsilon)
        patches = sequence[:, count:].reshape(b, height, w, c)
        return patches if self.number == 4 else TokenMap(patches, sequence[:, :count])

    def _embed(self, images: jax.Array) -> TokenMap:
        """Return a token for each patch of normalised images, the class token and the registers."""
        channels = embed_dim(self.variant, self.width)
        side, stride = self.variant.patch, self.variant.stride
        images = PIXELS[self.variant.pixels](images)
        patches = nn.Conv(
            *(channels, (side, side), (stride, stride)),
            padding="VALID",
            use_bias=not self.variant.pre_norm,
            kernel_init=_HE,
            dtype=self.dtype,
            name="patch",
        )(images)
        positions = self.param("positions", _SMALL, patches.shape[1:])
        tokens = self.param("token", _SMALL, (channels,))[None]
        if count := self.variant.registers:
            registers = self.param("registers", _SMALL, (1, count, channels))
            tokens = jnp.concatenate([tokens, registers[0]])
        beside = lax.broadcast(tokens.astype(patches.dtype), patches.shape[:1])
        return TokenMap(patches + positions.astype(patches.dtype), beside)
