"""The backbones by name. Each has four blocks, which end at the positions p1, p2, p3 and p4.

A backbone is a function of a block's number, 1 to 4, and of `width`, `axis_name`, `dtype` and
`name`. It returns a module that maps (x, train=...) to the map at the next position. Block 1 takes
normalised images. Blocks 1 to 3 may return a map with tokens beside it, a `token_map.TokenMap`,
which the next block takes. The rest of BAT-net depends on nothing else; the part streams are
further copies of blocks 3 and 4.
"""

from collections.abc import Callable, Mapping
from functools import partial

from flax import linen as nn

from batnet_jax.models import googlenet, osnet, resnet, vit


def _googlenet_block(variant: str, number: int, **options) -> nn.Module:
    if number == 1:
        return googlenet.Stem(backbone=variant, **options)
    return googlenet.Block(number, backbone=variant, **options)


def _osnet_block(variant: osnet.Variant, number: int, **options) -> nn.Module:
    if number == 1:
        return osnet.Stem(variant, **options)
    return osnet.Block(number, variant, **options)


def _vit_block(variant: vit.Variant, number: int, **options) -> nn.Module:
    return vit.Block(number, variant, **options)


BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    **{name: partial(_googlenet_block, name) for name in googlenet.BACKBONES},
    **{name: partial(resnet.Stage, variant=v) for name, v in resnet.BACKBONES.items()},
    **{name: partial(_osnet_block, variant) for name, variant in osnet.BACKBONES.items()},
    **{name: partial(_vit_block, variant) for name, variant in vit.BACKBONES.items()},
}
