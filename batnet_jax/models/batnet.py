"""BAT-net, assembled (section 4.2, Fig. 5)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.errors import UserError
from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.bi_attention import BiAttention
from batnet_jax.models.heads import HEADS
from batnet_jax.models.part_streams import PartStreams
from batnet_jax.models.token_map import map_of, with_map
from batnet_jax.runtime.own_code import choose

ATTENTIONS = ("aia", "plain", "none")
POSITIONS = ("p1", "p2", "p3", "p4")
FREEZABLE = ("blk1", "blk2", "blk3", "blk4", "bi_attention", "part_streams")
"""The parts of the network that training may leave as they are."""
MAX_ATTRIBUTES = {"embedding_dim": 2**16, "num_parts": 64, "rff_factor": 64, "width": 16}
"""The largest value of each of these attributes; see also `init_variables.MAX_PARAMETERS`."""


def parse_positions(position: str | Sequence[str]) -> tuple[str, ...]:
    """Return the positions in a string like "p2" or "p2,p3", or in a sequence of names.

    Returns: distinct `POSITIONS`, in the network's order.
    Raises: UserError if a position is missing, unknown or given twice.
    """
    # A tuple given on the command line arrives as the string '("p2","p3")'.
    given = position.strip("()[]").split(",") if isinstance(position, str) else position
    names = [str(name).strip("'\" ") for name in given]
    allowed = f"give one of {', '.join(POSITIONS)}, or several, as in p2,p3"
    for name in names or [""]:
        if name not in POSITIONS:
            raise UserError(f"position={position!r} has the unknown position {name!r}: {allowed}")
        if names.count(name) > 1:
            raise UserError(f"position={position!r} has {name} twice: {allowed}")
    return tuple(name for name in POSITIONS if name in names)


def parse_frozen(names: str) -> tuple[str, ...]:
    """Return the parts in a string like "blk1,blk2"; "" = none.

    Returns: distinct `FREEZABLE`, in the network's order.
    Raises: UserError if a part is unknown.
    """
    given = [name.strip() for name in names.split(",")] if names.strip() else []
    for name in given:
        if name not in FREEZABLE:
            raise UserError(
                f"freeze={names!r} has the unknown part {name!r}: give some of "
                f"{', '.join(FREEZABLE)}, as in blk1,blk2"
            )
    return tuple(name for name in FREEZABLE if name in given)


def feature_sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """Return the dimension of each feature of a network, the input size of its classifier.

    Args:
      params: of a `BATNet`, arrays or their shapes.
    Returns: the dimension of `appearance` and, with parts, of `part`.

    Raises: UserError if a head of the user's own has no such classifier.
    """
    heads = {name: f"{name}_head" for name in ("appearance", "part")}
    found = {name: params[head] for name, head in heads.items() if head in params}
    for name, head in found.items():
        classifier = head.get("classifier")
        kernel = classifier.get("kernel") if isinstance(classifier, Mapping) else None
        if getattr(kernel, "ndim", 0) != 2:
            raise UserError(
                f"the {name} head has no layer `classifier` with a kernel [d, identities], which "
                "tells the size of its feature: add one, as in nn.Dense(n, name='classifier')"
            )
    return {name: head["classifier"]["kernel"].shape[0] for name, head in found.items()}


class BATNet(nn.Module):
    """The Bilinear ATtention network.

    A backbone, a kernel and a neck are also taken by an import path, see `runtime/own_code.py`.

    Attributes:
      num_identities: classes of the two classifiers.
      attention: one of `ATTENTIONS`: with AiA (Eq. 5), without AiA (Eq. 6), none (Table 6, row i).
      position: the place of the Bi-attention, one of `POSITIONS` (Table 6), or several places,
        each with its own block; see `parse_positions`. The part streams branch off after p2, and
        see the attention at p1 and p2 only.
      reduction: r of the Bi-attention (Table 7).
      kernel, rff_factor, rff_bandwidth: see `BiAttention`.
      num_parts: T; 0 leaves only the appearance extractor (Table 5, rows i and ii).
      part_sampling: one of `part_streams.PART_SAMPLINGS`.
      neck: a key of `heads.HEADS`: the paper's heads ("none") or BNNeck heads; or a head, for both
        features.
      classifier: a key of `heads.CLASSIFIERS`: an fc, or cosines. A head of the user's own has its
        own classifier.
      embedding_dim: dimension of f_a and of f_p; 0, with a BNNeck only: the map's channels.
      dropout: rate in the heads.
      width: multiplier of the backbone's channels; 1 is the paper's.
      backbone: a key of `backbones.BACKBONES`, or a backbone.
      sync_batch_norm: compute BN's statistics over all devices.
      axis_name: pmap's axis, None outside pmap.
      frozen: parts that use running statistics and no gradient in training, see `FREEZABLE`.
      dtype: of the computation. Blk4's layers return at least float32, and the heads compute in
        it. Parameters and statistics are float32.
    """

    num_identities: int
    attention: str = "aia"
    position: str | Sequence[str] = "p2"
    reduction: int = 4
    kernel: str | Callable[..., jax.Array] = "bilinear"
    rff_factor: int = 4
    rff_bandwidth: float = 0.58
    num_parts: int = 4
    part_sampling: str = "paper"
    neck: str | Callable[..., nn.Module] = "none"
    classifier: str = "linear"
    embedding_dim: int = 512
    dropout: float = 0.1
    width: float = 1.0
    backbone: str | Callable[..., nn.Module] = "published"
    sync_batch_norm: bool = True
    axis_name: str | None = None
    frozen: Sequence[str] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, dict]:
        """Run the network.

        Args:
          images: [b, h, w, 3] float, RGB, normalised.
          train: use batch statistics and dropout (rng `dropout`), not running statistics.
        Returns: three dicts. `features` and `scores` have `appearance` and (if num_parts) `part`,
          [b, embedding_dim] and [b, num_identities]. `attention` has, for each position of a
          Bi-attention, a dict of `input`, `mask` and `output`, [b, h', w', c] each (Fig. 6). BNNeck
          heads return the features before the neck in training, for the triplet loss, and the
          features behind the neck, the embedding, otherwise.
        """
        positions = () if self.attention == "none" else parse_positions(self.position)
        attention = {}

        def run_block(number: int, x: Any) -> Any:
            x = self._block(number)(x, train=train and f"blk{number}" not in self.frozen)
            position = f"p{number}"
            if position not in positions:
                return x
            name = "bi_attention" if len(positions) == 1 else f"bi_attention_{position}"
            seen = map_of(x)
            mask = self._bi_attention(name).mask(
                seen, train=train and "bi_attention" not in self.frozen
            )
            attention[position] = {"input": seen, "mask": mask, "output": seen * mask}
            return with_map(x, attention[position]["output"])

        x = run_block(2, run_block(1, images.astype(self.dtype)))
        maps = {"appearance": run_block(4, run_block(3, x))}
        if self.num_parts:
            learns = "part_streams" not in self.frozen
            maps["part"] = self._part_streams()(x, train=train and learns)
        features, scores = {}, {}
        for name, feature_map in maps.items():
            features[name], scores[name] = self._head(name)(feature_map, train=train)
        return {"features": features, "scores": scores, "attention": attention}

    @property
    def _norm_axis(self) -> str | None:
        """The axis over which BN computes statistics; None: each device has its own."""
        return self.axis_name if self.sync_batch_norm else None

    def _block(self, number: int) -> nn.Module:
        """Return a block of the backbone, Blk1 to Blk4."""
        return choose(BACKBONES, self.backbone)(
            number,
            width=self.width,
            axis_name=self._norm_axis,
            dtype=self.dtype,
            name=f"blk{number}",
        )

    def _bi_attention(self, name: str) -> BiAttention:
        """Return a Bi-attention."""
        return BiAttention(
            self.reduction,
            self.attention == "aia",
            self.kernel,
            self.rff_factor,
            self.rff_bandwidth,
            axis_name=self._norm_axis,
            dtype=self.dtype,
            name=name,
        )

    def _part_streams(self) -> PartStreams:
        """Return the part streams."""
        return PartStreams(
            self.num_parts,
            self.part_sampling,
            width=self.width,
            backbone=self.backbone,
            axis_name=self._norm_axis,
            dtype=self.dtype,
            name="part_streams",
        )

    def _head(self, name: str) -> nn.Module:
        """Return the head of a feature, `appearance` or `part`."""
        heads = choose(HEADS, self.neck)
        own = isinstance(heads, Mapping)
        head = partial(heads[name], classifier=self.classifier) if own else heads
        return head(
            self.num_identities,
            self.embedding_dim,
            dropout=self.dropout,
            batch_norm_axis=self._norm_axis,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=f"{name}_head",
        )
