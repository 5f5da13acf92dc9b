"""The training step, a plain function that `training/loop.py` passes to `jax.pmap`.

A step is a pure function of the state and the batch. Its random numbers depend on seed, step and
position in the global batch, but not on the number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import struct
from jax import lax

from batnet_jax.models import BATNet, parse_frozen
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables, variable_shapes
from batnet_jax.runtime.devices import AXIS
from batnet_jax.step import accumulation, augment, freezing, losses, optimizer
from batnet_jax.step.averaging import Average, move_average, start_average
from batnet_jax.step.packing import pack_like, unpack


@struct.dataclass
class TrainState:
    """The state that a step changes, and the seed of its random numbers.

    Attributes:
      step: int32 scalar, steps taken.
      seed: int32 scalar, of augmentation and dropout. It is an argument of the step, not a
        constant, so that runs with other seeds find the compiled step in the cache.
      params: the parameters.
      batch_stats: the running statistics of batch normalisations.
      opt_state: the optimizer's state.
      average: of the parameters and statistics; None without `config.ema_decay`.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Average | None = None

    def tested(self) -> dict[str, Any]:
        """Return the variables to test and to embed with: the average, if there is one."""
        source = self if self.average is None else self.average
        return {"params": source.params, "batch_stats": source.batch_stats}

    def start_with(self, variables: dict[str, Any]) -> "TrainState":
        """Return the state of step 0 with other variables, also in its average."""
        average = None if self.average is None else start_average(variables, 1.0)
        return self.replace(**variables, average=average)  # type: ignore[attr-defined]


class Recipe(NamedTuple):
    """The parts of a training step that stay the same during a run.

    Attributes:
      model: the network, with `axis_name` if the step runs under pmap.
      tx: the optimizer.
      schedule: step to learning rate.
      seed: of the initial values, augmentation and dropout.
      erasing_start: the first step with random erasing.
      loss: see `losses.make_loss`.
      augment: this section of the config.
      accumulate: number of parts of a batch, see `accumulation`.
      frozen: parts of the network that stay as they are, see `models.FREEZABLE`.
      backbone_rate: of the learning rate, for the backbone.
      clip_norm: see `optimizer.clip`; 0 = none.
      ema_decay: of the moving average of the weights, see `averaging`; 0 = none.
      axis_name: pmap's axis; None outside pmap and on a single device, where collectives would only
        take time to compile.
    """

    model: BATNet
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    seed: int
    erasing_start: int
    loss: Callable[..., tuple[Any, dict[str, Any]]]
    augment: ml_collections.ConfigDict
    accumulate: int
    frozen: tuple[str, ...]
    backbone_rate: float
    clip_norm: float
    ema_decay: float
    axis_name: str | None


def make_recipe(
    config: ml_collections.ConfigDict,
    *,
    num_identities: int,
    steps_per_epoch: int,
    axis_name: str | None = AXIS,
) -> Recipe:
    """Make the parts of the training step from the config."""
    schedule = make_schedule(config, steps_per_epoch)
    tx = optimizer.adam_l2(
        schedule, beta1=config.beta1, beta2=config.beta2, weight_decay=config.weight_decay
    )
    return Recipe(
        model=make_model(config, num_identities, axis_name=axis_name),
        tx=tx,
        schedule=schedule,
        seed=config.seed,
        erasing_start=config.augment.erasing_start_epoch * steps_per_epoch,
        loss=losses.make_loss(config),
        augment=config.augment,
        accumulate=config.batch.accumulate,
        frozen=parse_frozen(config.train.freeze),
        backbone_rate=config.train.backbone_rate,
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        axis_name=axis_name,
    )


def make_schedule(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Return the config's learning-rate schedule."""
    warmup_steps = config.warmup_epochs * steps_per_epoch
    if config.schedule == "cosine":
        schedule = optimizer.cosine_schedule(
            config.learning_rate,
            warmup_steps=warmup_steps,
            steps=config.num_epochs * steps_per_epoch,
        )
    else:
        schedule = optimizer.learning_rate_schedule(
            config.learning_rate,
            decay_epochs=config.decay_epochs,
            decay_factor=config.decay_factor,
            steps_per_epoch=steps_per_epoch,
        )
    return optimizer.warm_up(schedule, steps=warmup_steps, factor=config.warmup_factor)


def state_shapes(recipe: Recipe, image_size: tuple[int, int]) -> TrainState:
    """Return the shapes and types of `init_state`, which take no memory and need no numbers."""
    variables = variable_shapes(recipe.model, image_size)
    number = jax.ShapeDtypeStruct((), np.int32)
    return TrainState(
        step=number,  # type: ignore[arg-type]
        seed=number,  # type: ignore[arg-type]
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.eval_shape(recipe.tx.init, variables["params"]),
        average=start_average(variables, recipe.ema_decay),
    )


def init_state(recipe: Recipe, image_size: tuple[int, int]) -> TrainState:
    """Return a fresh state on the host; it depends on the recipe's seed and network only."""
    variables = draw_variables(recipe.model, image_size, recipe.seed)
    params = variables["params"]
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(recipe.tx.init, params),
    )
    return TrainState(
        step=np.zeros((), np.int32),  # type: ignore[arg-type]
        seed=np.asarray(recipe.seed, np.int32),  # type: ignore[arg-type]
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=zeros,
        average=start_average(variables, recipe.ema_decay),
    )


def _global_positions(rows: int, axis_name: str | None) -> jax.Array:
    """Return the positions of this device's images in the global batch, [rows] int32."""
    first = lax.axis_index(axis_name) * rows if axis_name else 0
    return first + jnp.arange(rows)


def _update(
    state: TrainState, grads: Any, batch_stats: Any, recipe: Recipe
) -> tuple[Any, Any, Any]:
    """Return the new parameters, statistics and optimizer's state, packed like the old ones.

    Args:
      state: before the step.
      grads: of the parameters, packed like them; 0 for frozen ones.
      batch_stats: after the step, packed like the state's.
      recipe: see `Recipe`.
    """
    frozen, before = recipe.frozen, unpack(state.params)
    decayed = state.params
    if frozen:
        decayed = pack_like(freezing.zero_frozen(before, frozen), state.params)
    updates, opt_state = recipe.tx.update(grads, state.opt_state, decayed)
    if recipe.backbone_rate != 1:
        scaled = freezing.scale_backbone(unpack(updates), recipe.backbone_rate)
        updates = pack_like(scaled, state.params)
    params = optax.apply_updates(state.params, updates)
    if frozen:
        params = pack_like(freezing.keep_frozen(unpack(params), before, frozen), state.params)
        stats = unpack(batch_stats), unpack(state.batch_stats)
        batch_stats = pack_like(freezing.keep_frozen(*stats, frozen), state.batch_stats)
    return params, batch_stats, opt_state


def train_step(
    state: TrainState, batch: dict[str, jax.Array], *, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step of section 4.3 on the global batch.

    Args:
      state: the same on all devices; may be packed, see `packing`.
      batch: this device's share: `image` [b, h, w, 3] bytes and `label` [b] int32.
      recipe: see `Recipe`.
    Returns: the new state, packed like the old one, and the scalars `loss`, `loss_ce`,
      `loss_triplet` and `lr`. Both are the same on all devices.
    """
    axis_name = recipe.axis_name
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    augment_key, dropout_key = jax.random.split(key)
    positions = _global_positions(batch["image"].shape[0], axis_name)
    erase = (state.step >= recipe.erasing_start) * recipe.augment.erasing_probability

    def forward(params, batch_stats, rows):
        keys = jax.vmap(lambda position: jax.random.fold_in(augment_key, position))(
            rows["position"]
        )
        images = augment.augment(
            keys,
            rows["image"],
            enlarge_probability=recipe.augment.enlarge_probability,
            erasing_probability=erase,
            jitter=recipe.augment.colour_jitter,
            grey_probability=recipe.augment.grey_probability,
        )
        if recipe.frozen:
            params = freezing.stop_gradients(params, recipe.frozen)
        outputs, updates = recipe.model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        used = {kind: outputs[kind] for kind in ("features", "scores")}
        return used, updates.get("batch_stats", batch_stats)  # a network may have none

    def loss_fn(outputs):
        return recipe.loss(outputs, batch["label"], axis_name=axis_name)

    (loss, parts, batch_stats), grads = accumulation.value_and_gradients(
        forward,
        loss_fn,
        unpack(state.params),
        unpack(state.batch_stats),
        {"image": batch["image"], "position": positions},
        recipe.accumulate,
    )
    grads = pack_like(grads, state.params)
    batch_stats = pack_like(batch_stats, state.batch_stats)
    if axis_name:  # without synchronised BN the devices' statistics differ, so keep their mean
        grads, loss, parts, batch_stats = lax.pmean((grads, loss, parts, batch_stats), axis_name)
    grads = optimizer.clip(grads, recipe.clip_norm)
    params, batch_stats, opt_state = _update(state, grads, batch_stats, recipe)
    average = state.average
    if average is not None:
        options = {"decay": recipe.ema_decay, "step": state.step}
        average = move_average(average, params, batch_stats, **options)
    metrics = {
        "loss": loss,
        **parts,
        "lr": jnp.asarray(recipe.schedule(state.step), jnp.float32),
    }
    new_state = TrainState(
        step=state.step + 1,
        seed=state.seed,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=average,
    )
    return new_state, metrics
