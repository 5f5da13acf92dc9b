"""BAT-net, assembled (section 4.2, Fig. 5)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.errors import UserError
from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.bi_attention import BiAttention
from batnet_jax.models.heads import BNNeckHead, Head
from batnet_jax.models.part_streams import PartStreams

ATTENTIONS = ("aia", "plain", "none")
POSITIONS = ("p1", "p2", "p3", "p4")

LIMITS = {"embedding_dim": 2**16, "num_parts": 64, "rff_factor": 64, "width": 16}
"""What these fields may be; see also `initial.MOST_PARAMETERS`."""


def parse_positions(position: str | Sequence[str]) -> tuple[str, ...]:
    """The positions of a setting like "p2" or "p2,p3", or of a sequence of names.

    Returns: distinct `POSITIONS`, in the network's order.
    Raises: UserError if there is none, or one is unknown or given twice.
    """
    # On the command line ("p2","p3") comes as it is written, as the field holds a string.
    given = position.strip("()[]").split(",") if isinstance(position, str) else position
    names = [str(name).strip("'\" ") for name in given]
    allowed = f"give one of {', '.join(POSITIONS)}, or several, as in p2,p3"
    for name in names or [""]:
        if name not in POSITIONS:
            raise UserError(
                f"config.model.position={position!r} has the unknown position {name!r}: {allowed}"
            )
        if names.count(name) > 1:
            raise UserError(f"config.model.position={position!r} has {name} twice: {allowed}")
    return tuple(name for name in POSITIONS if name in names)


def feature_sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """How many numbers each feature of a network has, which is what its classifier takes.

    Args:
      params: `BATNet`'s.
    Returns: of `appearance` and, if there are parts, `part`.
    """
    heads = {name: f"{name}_head" for name in ("appearance", "part")}
    return {
        name: params[head]["classifier"]["kernel"].shape[0]
        for name, head in heads.items()
        if head in params
    }


class BATNet(nn.Module):
    """The Bilinear ATtention network.

    Attributes:
      num_identities: classes of the two classifiers.
      attention: one of `ATTENTIONS`: with AiA (Eq. 5), without (Eq. 6), none (Table 6, row i).
      position: where the Bi-attention stands, one of `POSITIONS` (Table 6), or several, each with
        a block of its own: see `parse_positions`. At p1 and p2 the part streams see the attended
        map; p3 and p4 lie behind their branch.
      reduction: r of the Bi-attention (Table 7).
      kernel, rff_factor, rff_bandwidth: see `BiAttention`.
      num_parts: T; 0 leaves the appearance extractor alone (Table 5, rows i and ii).
      part_sampling: one of `part_streams.PART_SAMPLINGS`.
      neck: one of `neck.NECKS`: the heads are the paper's, or have a BNNeck.
      embedding_dim: of each of f_a and f_p; 0, with a BNNeck alone: as many as the map's channels.
      dropout: rate in the heads.
      width: multiplier of the backbone's channels; 1 is the paper's.
      backbone: a key of `backbones.BACKBONES`.
      sync_batch_norm: take BN's statistics over all devices.
      axis_name: pmap's axis, None outside pmap.
      dtype: of the computation, but Blk4's layers hand on at least float32, and the heads are in
        it; parameters and statistics are float32.
    """

    num_identities: int
    attention: str = "aia"
    position: str | Sequence[str] = "p2"
    reduction: int = 4
    kernel: str = "bilinear"
    rff_factor: int = 4
    rff_bandwidth: float = 0.58
    num_parts: int = 4
    part_sampling: str = "paper"
    neck: str = "none"
    embedding_dim: int = 512
    dropout: float = 0.1
    width: float = 1.0
    backbone: str = "published"
    sync_batch_norm: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, dict]:
        """Runs the network.

        Args:
          images: [b, h, w, 3] float, RGB, normalised.
          train: batch statistics and dropout (rng `dropout`), or running statistics.
        Returns: a dict of dicts: `features` and `scores`, each with `appearance` and (if
          num_parts) `part`, [b, embedding_dim] and [b, num_identities]; `attention`, which has for
          each position of a Bi-attention a dict of `input`, `mask` and `output`, [b, h', w', c]
          each (Fig. 6). Behind a BNNeck, features are what is embedded; in training, those before
          it, which the triplet loss compares.
        """
        norm_axis = self.axis_name if self.sync_batch_norm else None
        shared = {"axis_name": norm_axis, "dtype": self.dtype}
        trunk = {"width": self.width, **shared}
        block = BACKBONES[self.backbone]
        positions = () if self.attention == "none" else parse_positions(self.position)
        attention = {}

        def attend(x, position):
            if position not in positions:
                return x
            layer = BiAttention(
                self.reduction,
                self.attention == "aia",
                self.kernel,
                self.rff_factor,
                self.rff_bandwidth,
                name="bi_attention" if len(positions) == 1 else f"bi_attention_{position}",
                **shared,
            )
            mask = layer.mask(x, train=train)
            attention[position] = {"input": x, "mask": mask, "output": x * mask}
            return attention[position]["output"]

        x = images.astype(self.dtype)
        x = attend(block(1, name="blk1", **trunk)(x, train=train), "p1")
        x = attend(block(2, name="blk2", **trunk)(x, train=train), "p2")
        maps = {}
        y = attend(block(3, name="blk3", **trunk)(x, train=train), "p3")
        maps["appearance"] = attend(block(4, name="blk4", **trunk)(y, train=train), "p4")
        if self.num_parts:
            streams = PartStreams(
                self.num_parts,
                self.part_sampling,
                backbone=self.backbone,
                name="part_streams",
                **trunk,
            )
            maps["part"] = streams(x, train=train)

        features, scores = {}, {}
        for name, feature_map in maps.items():
            published = partial(Head, relu=name == "appearance")
            head = BNNeckHead if self.neck == "bnneck" else published
            features[name], scores[name] = head(
                self.num_identities,
                self.embedding_dim,
                dropout=self.dropout,
                batch_norm_axis=norm_axis,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"{name}_head",
            )(feature_map, train=train)
        return {"features": features, "scores": scores, "attention": attention}
