"""Every setting with its default: the paper's where it speaks, else the published code's.

Each comment ends with the source: (paper), (published code) or (ours). `configs/*.py` start from
`default_config()` and change what their data set needs.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

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
from batnet_jax.optimizer import SCHEDULES
from batnet_jax.retrieval import POOLINGS

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


def default_config() -> ml_collections.ConfigDict:
    """The settings of the paper for Market-1501, DukeMTMC-reID and MSMT17.

    Locked: a config that sets a field that is not here is refused.
    """
    c = ml_collections.ConfigDict()
    c.seed = 0  # of initialisation, sampling, augmentation and dropout (ours)
    c.num_epochs = 300  # (paper, 4.4)
    c.steps = 0  # stop after this many steps in all; 0 = after num_epochs (ours)

    c.learning_rate = 5e-4  # Adam's, at the start; CUHK03: 1e-3 (paper, 4.4)
    c.schedule = "piecewise"  # piecewise | cosine, down to 0 at num_epochs (paper, 4.4)
    c.decay_epochs = (150, 200, 250)  # epochs, from 0, at which the rate is multiplied (paper, 4.4)
    c.decay_factor = 0.1  # by which it is multiplied (paper, 4.4)
    c.warmup_epochs = 0  # in which the rate rises linearly, of either schedule; 0 = none (paper)
    c.warmup_factor = 0.1  # of the rate, where the warm-up starts (ours)
    c.beta1 = 0.9  # Adam's (paper, 4.4)
    c.beta2 = 0.999  # Adam's (paper, 4.4)
    c.weight_decay = 1e-4  # L2 added to the gradient of all parameters (paper, 4.4; published code)

    c.data = data = ml_collections.ConfigDict()
    data.dataset = "market1501"  # one of batnet_jax.data.DATASETS (ours)
    data.variant = (
        ""  # of the data set: cuhk03 labeled|detected, msmt17 v1|v2, ...; "" = its first (ours)
    )
    data.train = ()  # several data sets, as in "'market1501','msmt17:v2'"; () = dataset (ours)
    data.manual_dir = "data/manual"  # where the user has put the archive or its folder (ours)
    data.dir = "data"  # where prepared data sets are written (ours)
    data.image_size = (256, 128)  # height, width in pixels (paper, 4.4)
    data.val_identities = 0.0  # share of the training identities held out to select on (ours)
    data.own_val = False  # hold out msmt17's own val images, which the paper trains on (ours)
    data.cache_gb = 4.0  # keep decoded training images in memory up to this; 0 = never (ours)
    data.disk_cache_gb = 50.0  # or else on disk, in data.dir, up to this much; 0 = never (ours)
    data.workers = 2  # decoding threads (ours)

    c.init = init = ml_collections.ConfigDict()
    init["from"] = ""  # start from these weights: .pth, .safetensors or a workdir (paper, 4.4)

    c.batch = batch = ml_collections.ConfigDict()
    batch.identities = 16  # P, of a global batch (published code)
    batch.images_per_identity = 4  # K (published code)
    batch.accumulate = (
        1  # parts of a device's batch, run in turn to save memory; losses see all of it (ours)
    )

    c.model = model = ml_collections.ConfigDict()
    model.attention = "aia"  # aia (Eq. 5) | plain (Eq. 6) | none (paper)
    model.position = (
        "p2"  # of the attention: p1..p4, after Blk1..4 (stages 1..4); several: p2,p3 (paper, 5.3)
    )
    model.kernel = "bilinear"  # second stage: bilinear (Eq. 2) | linear | rff (paper, 3.1)
    model.rff_factor = 4  # rff: random features for each channel of the embedding (published code)
    model.rff_bandwidth = 0.58  # rff: Gaussian's width over sqrt(c / r), see bi_attention.py (ours)
    model.backbone = (
        "published"  # published | torchvision | torchvision_raw (GoogLeNets) | resnet50 (ours)
    )
    model.reduction = 4  # r; CUHK03: 8 (paper, 4.4)
    model.num_parts = 4  # T; 0 = the appearance extractor alone (paper, 4.4)
    model.part_sampling = "paper"  # paper (crop, resize) | published (affine grid) (paper, 4.2)
    model.neck = "none"  # none | bnneck: BN between what triplets compare and scores (paper, 4.4)
    model.embedding_dim = (
        512  # of f_a and of f_p; 0, with a bnneck: the pooled map itself (paper, 4.4)
    )
    model.dropout = 0.1  # rate in the heads (published code)
    model.width = 1.0  # multiplier of the backbone's channels; 1 = the paper's (ours)
    model.sync_batch_norm = True  # batch statistics over all devices (ours)
    model.dtype = "float32"  # float32 | bfloat16, of activations up to Blk4's convolutions (ours)

    c.loss = loss = ml_collections.ConfigDict()
    loss.margin = 1.0  # of the triplet loss, Euclidean distance (published code)
    loss.num_negatives = 5  # hardest negatives an anchor; 1 = batch-hard (paper, 4.3)
    loss.label_smoothing = 0.1  # of the cross-entropy; 0 = none (published code)

    c.augment = augment = ml_collections.ConfigDict()
    augment.enlarge_probability = 0.5  # of enlarging to 9/8 and cropping (published code)
    augment.erasing_probability = 0.5  # of random erasing (published code)
    augment.erasing_start_epoch = 50  # from 0; none before (paper, 4.4)

    c.eval = evaluation = ml_collections.ConfigDict()
    evaluation.datasets = ()  # data sets to test on; () = those trained on (ours)
    evaluation.every_epochs = 0  # evaluate while training; 0 = at the end only (paper, 4.4)
    evaluation.step = (
        0  # the checkpoint that eval, report, export restore; 0 = latest, -1 = best on val (ours)
    )
    evaluation.batch = 64  # images a step of embedding, over all devices (ours)
    evaluation.ap = (
        "precision"  # average precision: precision (mean at the hits) | trapezoid (ours)
    )
    evaluation.same_camera = (
        "remove"  # remove | keep the query's own camera's images; kept if unknown (published code)
    )
    evaluation.multi_query = (
        "none"  # none | mean | max, over Market-1501's gt_bbox of query and camera (ours)
    )
    evaluation.breakdown = False  # also figures for each camera and identity (ours)
    evaluation.bootstrap = 0  # samples for confidence intervals, 0 = none (ours)
    evaluation.rerank = False  # also figures after re-ranking, Zhong et al., CVPR 2017 (ours)
    evaluation.expand = (
        0  # also figures of queries averaged with so many first finds, Chum, ICCV 2007 (ours)
    )
    evaluation.expand_alpha = (
        0.0  # weight of a find: its cosine to this power, Radenovic 2018 (ours)
    )
    evaluation.single_shot = (
        0  # also CMC with one gallery image a person, mean of so many draws, as CUHK03 (ours)
    )
    evaluation.verification = False  # also error rates over all pairs, and thresholds (ours)
    evaluation.distractors = False  # add Market-1501's 500,000 distractors to the gallery (ours)

    c.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 10  # also always at the end; 0 = only then (ours)
    checkpoint.keep = 3  # the newest so many stay (ours)
    checkpoint.keep_best = 1  # and the best so many by mAP on held-out identities (ours)

    c.profile = False  # write a trace of 3 steps to the workdir's profile/ (ours)

    c.log = log = ml_collections.ConfigDict()
    log.every_steps = 10  # a line in metrics.jsonl and a point in TensorBoard (ours)
    c.lock()
    return c


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
