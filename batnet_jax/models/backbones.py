"""The backbones by name. Each is four blocks, behind which the positions p1..p4 lie.

A backbone is a function from a block's number, 1 to 4, and `width`, `axis_name`, `dtype` and `name`
to a module that maps (x, train=...) to the next position; block 1 takes the normalised images. All
else of BAT-net is built on that alone, and the part streams are further copies of blocks 3 and 4.
"""

from collections.abc import Callable, Mapping
from functools import partial

from flax import linen as nn

from batnet_jax.models import googlenet, resnet


def _googlenet_block(variant: str, number: int, **options) -> nn.Module:
    if number == 1:
        return googlenet.Stem(backbone=variant, **options)
    return googlenet.Block(number, backbone=variant, **options)


BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    **{name: partial(_googlenet_block, name) for name in googlenet.BACKBONES},
    "resnet50": resnet.Stage,
}
