"""A config's settings checked before anything is read or written, and those of a run read again."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from batnet_jax.config import default_config
from batnet_jax.data import check_name
from batnet_jax.errors import UserError
from batnet_jax.models import (
    ATTENTIONS,
    BACKBONES,
    KERNELS,
    LIMITS,
    NECKS,
    PART_SAMPLINGS,
    parse_positions,
)
from batnet_jax.retrieval import POOLINGS
from batnet_jax.step.optimizer import SCHEDULES

DTYPES = ("float32", "bfloat16")
MOST = {
    "batch.identities": 2**16,
    "batch.images_per_identity": 2**16,
    "data.workers": 256,
    "eval.batch": 2**16,
} | {f"model.{name}": most for name, most in LIMITS.items()}
"""What numbers may be; those that are not named, less than 2^31."""
OF_NAMES = ("data.train", "eval.datasets", "model.position")
"""The tuples of strings; others are of whole numbers."""
MOST_SIDE = 4096
"""Pixels of data.image_size, each."""


def from_saved(saved: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The settings of a run, from what `config.json` or a checkpoint says of them.

    A field that is younger than the run has its default; one that is no more is left out.

    Raises: UserError if it says something else than settings.
    """
    c = default_config()

    def take(section: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
        for name in section.keys() & values.keys():
            own, value = section[name], values[name]
            nested = isinstance(own, ml_collections.ConfigDict)
            if isinstance(value, Mapping) != nested:
                raise UserError(f"the saved settings say {name}={value!r}: are they a run's?")
            if nested:
                take(own, value)
            else:
                with section.ignore_type():  # model.position may be a name or several
                    section[name] = tuple(value) if isinstance(value, list) else value

    if not isinstance(saved, Mapping):
        raise UserError(f"the saved settings are {saved!r}: are they a run's?")
    take(c, saved)
    check_types(c)
    return c


def check_types(config: ml_collections.ConfigDict) -> None:
    """Refuses values of other types than the defaults', also within tuples.

    Raises: UserError naming the field.
    """
    defaults = dict(_fields(default_config()))
    fields = dict(_fields(config))
    for field in sorted(defaults.keys() ^ fields.keys()):  # a section can be replaced as a whole
        _require(False, f"config.{field} is unknown, or missing: give fields one by one")
    for field, value in fields.items():
        kinds = {float: (float, int)}.get(type(defaults[field]), type(defaults[field]))
        if field == "model.position" and isinstance(value, tuple):
            kinds = tuple
        inner = str if field in OF_NAMES else int
        fits = isinstance(value, kinds) and (
            not isinstance(value, tuple) or all(type(item) is inner for item in value)
        )
        example = defaults[field] or ("msmt17",) if field in OF_NAMES else defaults[field]
        wanted = f"give such as {example!r}"
        _require(fits, f"config.{field}={value!r} is of another type: {wanted}")


def _fields(section: ml_collections.ConfigDict, at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _fields(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_choice(
    config: ml_collections.ConfigDict, field: str, choices: tuple[str, ...]
) -> None:
    section, name = field.split(".")
    value = getattr(getattr(config, section), name)
    names = ", ".join(choices)
    _require(
        value in choices, f"config.{field}={value!r} is not one of {names}: choose one of them"
    )


def validate(config: ml_collections.ConfigDict) -> None:
    """Refuses values that cannot work, before anything is read or written.

    Raises: UserError naming the field, its value and what is allowed.
    """
    check_types(config)
    check_name(config.data.dataset, "data.dataset")
    for field, names in (
        ("data.train", config.data.train),
        ("eval.datasets", config.eval.datasets),
    ):
        for name in names:
            check_name(name, field)
    trained = {str(name).split(":")[0] for name in config.data.train}
    replaced = trained and config.data.dataset not in trained
    _require(
        not (replaced and config.data.variant),
        f"config.data.variant={config.data.variant!r} is of data.dataset, which data.train "
        "replaces: empty it, and write the variant with the name, as in msmt17:v2",
    )
    _require_choice(config, "model.attention", ATTENTIONS)
    parse_positions(config.model.position)
    _require_choice(config, "model.kernel", tuple(KERNELS))
    _require_choice(config, "model.backbone", tuple(BACKBONES))
    _require_choice(config, "model.part_sampling", PART_SAMPLINGS)
    _require_choice(config, "model.neck", NECKS)
    _require_choice(config, "model.dtype", DTYPES)
    _require_choice(config, "eval.ap", ("precision", "trapezoid"))
    _require_choice(config, "eval.same_camera", ("remove", "keep"))
    _require_choice(config, "eval.multi_query", ("none", *POOLINGS))
    positive = {
        "num_epochs": config.num_epochs,
        "learning_rate": config.learning_rate,
        "decay_factor": config.decay_factor,
        "batch.identities": config.batch.identities,
        "batch.accumulate": config.batch.accumulate,
        "model.reduction": config.model.reduction,
        "model.rff_factor": config.model.rff_factor,
        "model.rff_bandwidth": config.model.rff_bandwidth,
        "model.width": config.model.width,
        "loss.num_negatives": config.loss.num_negatives,
        "data.workers": config.data.workers,
        "eval.batch": config.eval.batch,
        "checkpoint.keep": config.checkpoint.keep,
        "log.every_steps": config.log.every_steps,
    }
    not_negative = {
        "steps": config.steps,
        "warmup_epochs": config.warmup_epochs,
        "model.num_parts": config.model.num_parts,
        "model.embedding_dim": config.model.embedding_dim,
        "loss.margin": config.loss.margin,
        "weight_decay": config.weight_decay,
        "checkpoint.keep_best": config.checkpoint.keep_best,
        "eval.bootstrap": config.eval.bootstrap,
        "eval.expand": config.eval.expand,
        "eval.expand_alpha": config.eval.expand_alpha,
        "eval.single_shot": config.eval.single_shot,
        "eval.every_epochs": config.eval.every_epochs,
        "checkpoint.every_epochs": config.checkpoint.every_epochs,
        "data.cache_gb": config.data.cache_gb,
        "data.disk_cache_gb": config.data.disk_cache_gb,
        "augment.erasing_start_epoch": config.augment.erasing_start_epoch,
    }
    shares = {
        "warmup_factor": config.warmup_factor,
        "augment.enlarge_probability": config.augment.enlarge_probability,
        "augment.erasing_probability": config.augment.erasing_probability,
        "model.dropout": config.model.dropout,
        "loss.label_smoothing": config.loss.label_smoothing,
        "data.val_identities": config.data.val_identities,
    }
    images = {"batch.images_per_identity": config.batch.images_per_identity}
    for field, value in (positive | not_negative | shares | images).items():
        most = MOST.get(field, 2**31 - 1)
        number = value == value and abs(value) != math.inf  # isfinite knows no int above 1e308
        _require(number, f"config.{field}={value} is not a finite number: give one")
        _require(value <= most, f"config.{field}={value} must be {most} or less")
    _require(
        0 <= config.seed < 2**31, f"config.seed={config.seed} must be 0 or more, and below 2^31"
    )
    for field, value in positive.items():
        _require(value > 0, f"config.{field}={value} must be above 0")
    for field, value in not_negative.items():
        _require(value >= 0, f"config.{field}={value} must be 0 or more")
    _require(
        -1 <= config.eval.step < 2**63,
        f"config.eval.step={config.eval.step} must be a step, 0 (the latest) or -1 (the best)",
    )
    for field, value in {"beta1": config.beta1, "beta2": config.beta2}.items():
        _require(0 <= value < 1, f"config.{field}={value} must be 0 or more, and below 1")
    for field, value in shares.items():
        _require(0 <= value <= 1, f"config.{field}={value} must lie between 0 and 1")
    _require(config.model.dropout < 1, "config.model.dropout=1 leaves nothing: give less")
    _require(
        not (config.data.own_val and config.data.val_identities),
        "config.data.own_val and config.data.val_identities both hold images out: choose one",
    )
    _require(
        config.data.val_identities < 1, "config.data.val_identities=1 leaves nothing to train on"
    )
    _require(
        config.model.embedding_dim or config.model.neck == "bnneck",
        "config.model.embedding_dim=0 needs --config.model.neck=bnneck: the published heads end in "
        "a layer of that size; give more, or that neck",
    )
    _require(
        config.schedule in SCHEDULES,
        f"config.schedule={config.schedule!r} is not one of {', '.join(SCHEDULES)}: choose one",
    )
    _require(
        config.warmup_epochs < config.num_epochs,
        f"config.warmup_epochs={config.warmup_epochs} leaves nothing of "
        f"config.num_epochs={config.num_epochs}: give fewer",
    )
    size = config.data.image_size
    _require(
        len(size) == 2 and all(0 < s <= MOST_SIDE and s % 16 == 0 for s in size),
        f"config.data.image_size={tuple(size)} must be (height, width), multiples of 16, up to "
        f"{MOST_SIDE}",
    )
    _validate_batch(config)


def _validate_batch(config: ml_collections.ConfigDict) -> None:
    identities, images = config.batch.identities, config.batch.images_per_identity
    _require(
        images >= 2,
        f"config.batch.images_per_identity={images} leaves no positive: give 2 or more",
    )
    negatives = (identities - 1) * images
    _require(
        negatives >= config.loss.num_negatives,
        f"a batch of {identities} x {images} has {negatives} negatives an anchor, fewer than "
        f"config.loss.num_negatives={config.loss.num_negatives}: raise config.batch.identities",
    )
    parts, size = config.batch.accumulate, identities * images
    _require(
        size % parts == 0,
        f"config.batch.accumulate={parts} does not divide a batch of {identities} x {images} = "
        f"{size} images: choose a divisor",
    )
