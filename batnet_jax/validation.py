"""The checks of a config and of the settings that a run has saved, and the settings to lower.

`config.FIELDS` has the rules of single fields. The rules for several fields, and those that need
the data sets or the network, are here. Only a run shows whether its memory suffices: the remedies
for too little memory name the fields.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from batnet_jax.config import (
    FIELDS,
    Field,
    default_config,
    flatten,
    older_values,
    set_fields,
)
from batnet_jax.data import DATASETS, builder_of, check_name, check_reading, split_name
from batnet_jax.errors import UserError
from batnet_jax.models import POOLED_NECKS, parse_frozen, parse_positions
from batnet_jax.runtime.own_code import (
    EXAMPLE,
    VARIABLE,
    as_trusted,
    check_call,
    choose,
    is_import_path,
    is_trusted,
)
from batnet_jax.runtime.resource_errors import MemoryRemedies

MAX_SIDE = 4096
"""Limit of an image's height and width, in pixels."""
OWN_CALLS = {
    "model.backbone": (("number",), ("width", "axis_name", "dtype", "name")),
    "model.kernel": (("x",), ()),
    "model.neck": (
        ("num_identities", "embedding_dim"),
        ("dropout", "batch_norm_axis", "axis_name", "dtype", "name"),
    ),
    "loss.function": (
        ("outputs", "labels"),
        ("margin", "num_negatives", "label_smoothing", "axis_name"),
    ),
}
"""The arguments, by place and by name, that code of the user's own is called with, by its field."""
TRAINING_MEMORY = MemoryRemedies(
    device="lower config.batch.identities, config.data.image_size or config.model.width, or set "
    "config.model.dtype=bfloat16, and name another workdir, as these make it another run",
    host="lower config.data.cache_gb, and the same command resumes from the last checkpoint; or "
    "lower config.batch.identities and name another workdir, as this makes it another run",
)
EVALUATION_MEMORY = MemoryRemedies(
    device="lower config.eval.batch; the same command then continues from the checkpoint",
    host="lower config.eval.batch or config.data.cache_gb; the same command then continues from "
    "the checkpoint",
)


def from_saved(saved: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return the settings that `config.json` or a checkpoint holds.

    A field that is younger than the run gets its value `before`, or its default. A field that no
    longer exists is ignored.

    Raises: UserError if the content is not the settings of a run.
    """
    if not isinstance(saved, Mapping):
        raise UserError(f"the saved settings are {saved!r}: are they a run's?")
    config = default_config()
    _update(config, saved)
    set_fields(config, older_values(saved))
    check_types(config)
    return config


def _update(section: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Set the fields of a section to saved values of any type.

    Raises: UserError if a value is saved for a section, or a section for a value.
    """
    for name in section.keys() & values.keys():
        own, value = section[name], values[name]
        nested = isinstance(own, ml_collections.ConfigDict)
        if isinstance(value, Mapping) != nested:
            raise UserError(f"the saved settings say {name}={value!r}: are they a run's?")
        if nested:
            _update(own, value)
        else:
            with section.ignore_type():  # model.position may be a string or a tuple
                section[name] = tuple(value) if isinstance(value, list) else value


def check_types(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Refuse missing and unknown fields, and values of another type, also within tuples.

    Returns: each field's value by its dotted name.
    Raises: UserError naming the field.
    """
    values = flatten(config)
    for name in sorted(FIELDS.keys() ^ values.keys()):  # a section can be replaced as a whole
        raise UserError(f"config.{name} is unknown, or missing: give fields one by one")
    for name, value in values.items():
        example = FIELDS[name].example or FIELDS[name].default
        fits = _has_type_of(example, value)
        if name == "model.position" and isinstance(value, tuple):
            fits = _has_type_of((example,), value)
        _require(
            fits, f"config.{name}={value!r} is of another type: give a value such as {example!r}"
        )
    return values


def _has_type_of(example: Any, value: Any) -> bool:
    """Return whether a value has the type of an example. An int may stand for a float."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and all(type(item) is type(example[0]) for item in value)
    return isinstance(value, (float, int) if isinstance(example, float) else type(example))


def _require(condition: Any, message: str) -> None:
    """Raise a UserError unless a condition holds."""
    if not condition:
        raise UserError(message)


def validate(config: ml_collections.ConfigDict) -> None:
    """Refuse values that cannot work, before anything is read or written.

    Raises: UserError naming the field, its value and the allowed values.
    """
    for name, value in check_types(config).items():
        _check_value(name, value, FIELDS[name])
    _check_data(config)
    _check_image_size(config.data.image_size)
    _check_network(config.model)
    _check_frozen(config)
    _check_warmup(config)
    _check_batch(config)


def _check_value(name: str, value: Any, field: Field) -> None:
    """Refuse a value that is not among the field's choices or numbers.

    Raises: UserError.
    """
    if field.choices is not None:
        also = f", or name your own, as in {EXAMPLE}" if field.own else ""
        _require(
            value in field.choices or (field.own and is_import_path(value)),
            f"config.{name}={value!r} is not one of {', '.join(field.choices)}: choose one{also}",
        )
    if field.least is not None or field.above is not None:
        finite = value == value and abs(value) != math.inf  # isfinite fails for an int above 1e308
        _require(finite, f"config.{name}={value} is not a finite number: give one")
        limit = _broken_limit(value, field)
        meaning = field.comment.rpartition(" (")[0]
        _require(limit is None, f"config.{name}={value} must be {limit} ({meaning})")


def _broken_limit(value: float, field: Field) -> str | None:
    """Return the limit of a field that a number breaks, in words, or None."""
    limits = {
        f"{field.least} or more": field.least is None or value >= field.least,
        f"above {field.above}": field.above is None or value > field.above,
        f"below {field.below}": field.below is None or value < field.below,
        f"{field.most} or less": value <= field.most,
    }
    return next((limit for limit, holds in limits.items() if not holds), None)


def _check_data(config: ml_collections.ConfigDict) -> None:
    """Refuse unknown data sets, and settings of the data that exclude each other.

    Raises: UserError.
    """
    data = config.data
    names = _dataset_names(config)
    for field, name in names:
        check_name(name, f"config.{field}")
    check_reading(data.layout, data.pattern)
    bases = {split_name(name)[0] for _, name in names}
    _require(
        not (data.layout or data.pattern) or "folder" in bases or bases - DATASETS.keys(),
        "config.data.layout and config.data.pattern are for the data set folder: empty them",
    )
    trained = [split_name(name)[0] for name in data.train]
    _require(
        not (data.variant and trained and data.dataset not in trained),
        f"config.data.variant={data.variant!r} is of data.dataset, which data.train replaces: "
        "empty it, and write the variant with the name, as in msmt17:v2",
    )
    _require(
        not (data.own_val and data.val_identities),
        "config.data.own_val and config.data.val_identities both hold images out: choose one",
    )


def _dataset_names(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
    """Return each name of a data set in a config, behind its field."""
    fields = {
        "data.dataset": (config.data.dataset,),
        "data.train": config.data.train,
        "eval.datasets": config.eval.datasets,
    }
    return [(field, name) for field, names in fields.items() for name in names]


def own_code(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
    """Return each import path in a config, behind its field; see `runtime/own_code.py`."""
    paths = [(n, v) for n, v in flatten(config).items() if n in OWN_CALLS and is_import_path(v)]
    datasets = [(field, split_name(name)[0]) for field, name in _dataset_names(config)]
    return paths + [(field, base) for field, base in datasets if is_import_path(base)]


def import_own_code(config: ml_collections.ConfigDict) -> None:
    """Import what a config of the user's own names by import paths, before anything is prepared.

    Raises: UserError naming the field, if something is missing or of another kind.
    """
    for field, path in own_code(config):
        try:
            if field in OWN_CALLS:
                check_call(path, choose({}, path), *OWN_CALLS[field])
            else:
                builder_of(path)
        except UserError as error:
            raise UserError(f"config.{field}={error}") from error


def check_trusted(
    config: ml_collections.ConfigDict,
    source: object,
    trust: str | Collection[str] = (),
    *,
    sections: Collection[str] = ("model", "data", "eval"),
    given: Collection[str] = (),
) -> None:
    """Refuse the settings of a checkpoint that name code which the user has not permitted.

    Args:
      config: as the checkpoint has saved it.
      source: the checkpoint, for the message.
      trust: the packages that may be imported, see `runtime.own_code.as_trusted`.
      sections: the sections of the config that will be used.
      given: the fields that the user has set.

    Raises: UserError naming the field and the import path.
    """
    trusted = as_trusted(trust)
    for field, path in own_code(config):
        used = field.split(".")[0] in sections and field not in given
        if used and not is_trusted(path, trusted):
            package = path.partition(":")[0].split(".")[0]
            raise UserError(
                f"'{source}' names code to import, {field}={path}, which you have not trusted: if "
                f"you do, give --trust={package} (in Python trust={package!r}), or set "
                f"{VARIABLE}={package}"
            )


def _check_image_size(size: tuple[int, ...]) -> None:
    """Refuse sizes that the network's strides, or the memory, do not allow.

    Raises: UserError.
    """
    _require(
        len(size) == 2 and all(0 < side <= MAX_SIDE and side % 16 == 0 for side in size),
        f"config.data.image_size={tuple(size)} must be (height, width), multiples of 16, up to "
        f"{MAX_SIDE}",
    )


def _check_network(model: ml_collections.ConfigDict) -> None:
    """Refuse unknown positions, an embedding of size 0 where a head has a layer, other classifiers.

    Raises: UserError.
    """
    try:
        parse_positions(model.position)
    except UserError as error:
        raise UserError(f"config.model.{error}") from error
    _require(
        model.embedding_dim or model.neck in POOLED_NECKS or is_import_path(model.neck),
        "config.model.embedding_dim=0 needs --config.model.neck=bnneck: the other heads end in a "
        "layer of that size; give more, or that neck",
    )
    _require(
        model.classifier == "linear" or not is_import_path(model.neck),
        f"config.model.classifier={model.classifier} is not for a head of your own, which has its "
        "own classifier: leave it linear",
    )


def _check_frozen(config: ml_collections.ConfigDict) -> None:
    """Refuse unknown parts to freeze, and parts that the network does not have.

    Raises: UserError.
    """
    try:
        frozen = parse_frozen(config.train.freeze)
    except UserError as error:
        raise UserError(f"config.train.{error}") from error
    lacks = {
        "bi_attention": (config.model.attention == "none", "config.model.attention=none"),
        "part_streams": (config.model.num_parts == 0, "config.model.num_parts=0"),
    }
    for name, (missing, why) in lacks.items():
        _require(
            not (missing and name in frozen),
            f"config.train.freeze={config.train.freeze!r} names {name}, which the network does not "
            f"have ({why}): leave it out",
        )


def _check_warmup(config: ml_collections.ConfigDict) -> None:
    """Refuse a warm-up that lasts as long as the training.

    Raises: UserError.
    """
    _require(
        config.warmup_epochs < config.num_epochs,
        f"config.warmup_epochs={config.warmup_epochs} is not less than "
        f"config.num_epochs={config.num_epochs}: give fewer",
    )


def _check_batch(config: ml_collections.ConfigDict) -> None:
    """Refuse a batch with too few negatives or in unequal parts, and a margin above cosines.

    Raises: UserError.
    """
    identities, images = config.batch.identities, config.batch.images_per_identity
    negatives = (identities - 1) * images
    _require(
        negatives >= config.loss.num_negatives,
        f"a batch of {identities} x {images} has {negatives} negatives an anchor, fewer than "
        f"config.loss.num_negatives={config.loss.num_negatives}: raise config.batch.identities",
    )
    circle = config.loss.function == "circle"
    _require(
        not circle or config.loss.margin < 1,
        f"config.loss.margin={config.loss.margin} is not a margin of cosines, which circle loss "
        "takes: choose one below 1, such as 0.25",
    )
    parts, size = config.batch.accumulate, identities * images
    _require(
        size % parts == 0,
        f"config.batch.accumulate={parts} does not divide a batch of {identities} x {images} = "
        f"{size} images: choose a divisor",
    )


def as_flags(section: str, values: Mapping[str, Any]) -> str:
    """Return the flags that set fields of a section, as in "--config.model.width=0.5"."""
    return " ".join(f"--config.{section}.{name}={value}" for name, value in values.items())
