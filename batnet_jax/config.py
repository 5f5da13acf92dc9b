"""The settings: default, meaning, source of the default, and allowed values of each field.

The source ends each comment: (paper, section), which is Fang et al., ICCV 2019; (published code),
by the same authors; or (ours). `configs/*.py` start from `default_config()` and change the fields
that differ for their data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_collections


@dataclass(frozen=True)
class Field:
    """A setting. A run can only be resumed with the value that it started with.

    Attributes:
      default: has the field's type. A field with a float default also takes an int.
      comment: the meaning and the unit, then the default's source in parentheses.
      least, above: lower limit of a number, included or excluded; every number has one of them.
      most, below: upper limit of a number, included or excluded.
      choices: the allowed names.
      own: an import path of the user's own code is allowed, too, see `runtime/own_code.py`.
      example: a value for messages, if the default is an empty tuple.
      before: the value for a run that is older than the field, if it is not the default.
    """

    default: Any
    comment: str
    least: float | None = None
    above: float | None = None
    most: float = 2**31 - 1
    below: float | None = None
    choices: tuple[str, ...] | None = None
    own: bool = False
    example: tuple[str, ...] | None = None
    before: Any = None
    resumable: ClassVar[bool] = False


class Resumable(Field):
    """A setting whose value may change when a run is resumed."""

    resumable = True


FIELDS: dict[str, Field] = {
    # The run
    "seed": Field(0, "seed of initialisation, sampling, augmentation and dropout (ours)", least=0),
    "num_epochs": Resumable(300, "length of the training (paper, 4.4)", above=0),
    "steps": Resumable(0, "stop after N steps in all; 0 = after num_epochs (ours)", least=0),
    "fit": Resumable(
        "batch",
        "settings that follow from the size of the training set, unless given: none; batch, if "
        "it has fewer people than a batch; or all, which adds the length of the run (ours)",
        choices=("none", "batch", "all"),
    ),
    # The optimizer
    "learning_rate": Field(5e-4, "learning rate at the start; CUHK03: 1e-3 (paper, 4.4)", above=0),
    "schedule": Field(
        "piecewise", "cosine ends in 0 at num_epochs (paper, 4.4)", choices=("piecewise", "cosine")
    ),
    "decay_epochs": Field(
        (150, 200, 250), "epochs, from 0, at which decay_factor multiplies the rate (paper, 4.4)"
    ),
    "decay_factor": Field(
        0.1, "factor of the learning rate at each of decay_epochs (paper, 4.4)", above=0
    ),
    "warmup_epochs": Field(
        0, "epochs in which the learning rate rises linearly; 0 = none (paper)", least=0
    ),
    "warmup_factor": Field(
        0.1, "factor of the learning rate at the start of the warm-up (ours)", least=0, most=1
    ),
    "beta1": Field(0.9, "Adam's (paper, 4.4)", least=0, below=1),
    "beta2": Field(0.999, "Adam's (paper, 4.4)", least=0, below=1),
    "weight_decay": Field(
        1e-4, "L2 in the gradient of all parameters (paper, 4.4; published code)", least=0
    ),
    "clip_norm": Field(0.0, "limit of the norm of a step's gradient; 0 = no limit (ours)", least=0),
    "ema_decay": Field(
        0.0,
        "decay of a moving average of the weights, used to test and embed; 0 = no average (ours)",
        least=0,
        below=1,
    ),
    # The images
    "data.dataset": Field("market1501", "a key of batnet_jax.data.DATASETS (ours)", own=True),
    "data.variant": Field(
        "", "cuhk03: labeled|detected, msmt17: v1|v2, ...; '' = the first, or the one found (ours)"
    ),
    "data.train": Field(
        (),
        "several data sets, as in \"'market1501','msmt17:v2'\"; () = data.dataset (ours)",
        own=True,
        example=("msmt17",),
    ),
    "data.manual_dir": Resumable("data/manual", "your folder, archive or table of images (ours)"),
    "data.dir": Resumable("data", "folder to write prepared data sets to (ours)"),
    "data.layout": Resumable(
        "", "what sub-folders mean, from the top, as in split/camera/person; '' = found (ours)"
    ),
    "data.pattern": Resumable(
        "", "regular expression for a folder's paths, with groups pid and camera (ours)"
    ),
    "data.image_size": Field((256, 128), "height, width in pixels (paper, 4.4)"),
    "data.alpha": Field(
        "white",
        "background for transparent images; drop = show their hidden colours (ours)",
        choices=("white", "grey", "black", "drop"),
        before="drop",
    ),
    "data.val_identities": Field(
        0.0, "share of the training identities to hold out, to select on (ours)", least=0, below=1
    ),
    "data.own_val": Field(
        False, "hold out msmt17's own val images, which the paper trains on (ours)"
    ),
    "data.cache_gb": Resumable(
        4.0, "memory for all decoded training images, at most; 0 = no cache (ours)", least=0
    ),
    "data.disk_cache_gb": Resumable(
        50.0, "disk space for them in data.dir if memory is too small; 0 = none (ours)", least=0
    ),
    "data.workers": Resumable(2, "decoding threads (ours)", above=0, most=256),
    # The weights to start from
    "init.from": Field("", "a .pth, a .safetensors or a workdir; '' = none (paper, 4.4)"),
    "init.prefix": Field(
        "", "prefix of the tensors' names, as in module.encoder_q; '' = found (ours)"
    ),
    # Fine-tuning
    "train.freeze": Field(
        "", "parts that keep parameters and BN statistics, as in blk1,blk2; '' = none (ours)"
    ),
    "train.backbone_rate": Field(
        1.0,
        "factor of the learning rate for Blk1 to Blk4 and their copies in the streams (ours)",
        above=0,
    ),
    # The batch, over all devices
    "batch.identities": Field(16, "P, identities in a batch (published code)", above=0, most=2**16),
    "batch.images_per_identity": Field(
        4,
        "K, images of each; 1 would leave a triplet without a positive (published code)",
        least=2,
        most=2**16,
    ),
    "batch.accumulate": Field(
        1, "parts of a device's batch, run in turn to save memory; losses see all (ours)", above=0
    ),
    # The network
    "model.attention": Field(
        "aia", "aia (Eq. 5), plain (Eq. 6) or none (paper)", choices=("aia", "plain", "none")
    ),
    "model.position": Field(
        "p2", "place of the attention: p1 to p4, after Blk1 to Blk4, or several: p2,p3 (paper, 5.3)"
    ),
    "model.kernel": Field(
        "bilinear",
        "second stage of the attention, Eq. 2 (paper, 3.1)",
        choices=("bilinear", "linear", "rff"),
        own=True,
    ),
    "model.rff_factor": Field(
        4, "rff: random features a channel of the embedding (published code)", above=0, most=64
    ),
    "model.rff_bandwidth": Field(
        0.58, "rff: width of the Gaussian over sqrt(c / r), see bi_attention.py (ours)", above=0
    ),
    "model.backbone": Field(
        "published",
        "GoogLeNet in three variants, ResNet-50, OSNet, or a vision transformer (ours)",
        choices=(
            *("published", "torchvision", "torchvision_raw", "resnet50", "resnet50_ibn"),
            *("fastreid_r50", "fastreid_r50_ibn", "fastreid_r50_nl", "fastreid_r50_ibn_nl"),
            *("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0"),
            *("osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25"),
            *("vit_s16", "vit_s16_stride12", "vit_s16_mean", "vit_s16_dino"),
            *("vit_s14_dinov2", "vit_s14_dinov2_reg4"),
            *("vit_b16", "vit_b16_stride12", "vit_b16_mean", "vit_b16_dino"),
            *("vit_b14_dinov2", "vit_b14_dinov2_reg4"),
            *("vit_b16_clip", "vit_b16_clip_gelu"),
            *("vit_b16_clipreid", "vit_b16_clipreid_stride12"),
        ),
        own=True,
    ),
    "model.reduction": Field(
        4, "r: the attention embeds c channels in c / r; CUHK03: 8 (paper, 4.4)", above=0
    ),
    "model.num_parts": Field(
        4, "T, part streams; 0 = appearance extractor only (paper, 4.4)", least=0, most=64
    ),
    "model.part_sampling": Field(
        "paper", "crop and resize, or affine grid (paper, 4.2)", choices=("paper", "published")
    ),
    "model.neck": Field(
        "none",
        "bnneck: BN between the triplet loss's features and the scores, behind GAP or GeM; fc: "
        "OSNet's (paper, 4.4)",
        choices=("none", "bnneck", "bnneck_gem", "fc"),
        own=True,
    ),
    "model.classifier": Field(
        "linear",
        "fc, or cosines with loss.class_margin: am_softmax, arcface (paper, 4.4)",
        choices=("linear", "am_softmax", "arcface"),
    ),
    "model.embedding_dim": Field(
        512,
        "length of f_a and of f_p; 0, with a bnneck = the pooled map (paper, 4.4)",
        least=0,
        most=2**16,
    ),
    "model.dropout": Field(0.1, "rate in the heads (published code)", least=0, below=1),
    "model.width": Field(
        1.0, "multiplies the backbone's channels; 1 = the paper's (ours)", above=0, most=16
    ),
    "model.sync_batch_norm": Field(True, "batch statistics over all devices (ours)"),
    "model.dtype": Field(
        "float32",
        "type of activations; always float32 from Blk4 on (ours)",
        choices=("float32", "bfloat16"),
    ),
    # The losses
    "loss.function": Field(
        "multi_task",
        "ranking and classification, Eq. 7; or soft-margin triplets, or circle loss (paper, 4.3)",
        choices=("multi_task", "soft_triplet", "circle"),
        own=True,
    ),
    "loss.margin": Field(
        1.0,
        "margin of multi_task, a Euclidean distance; or of circle, below 1 (published code)",
        least=0,
    ),
    "loss.num_negatives": Field(
        5, "hardest negatives in multi_task and soft_triplet; 1 = batch-hard (paper, 4.3)", above=0
    ),
    "loss.class_margin": Field(
        0.35,
        "margin of am_softmax, of cosines; or of arcface, in radians, usually 0.5 (ours)",
        least=0,
        most=1.5,
    ),
    "loss.label_smoothing": Field(
        0.1, "label smoothing of the cross-entropy; 0 = none (published code)", least=0, most=1
    ),
    # The augmentation
    "augment.enlarge_probability": Field(
        0.5, "probability of enlarging to 9/8 and cropping (published code)", least=0, most=1
    ),
    "augment.erasing_probability": Field(
        0.5, "probability of random erasing (published code)", least=0, most=1
    ),
    "augment.erasing_start_epoch": Field(
        50, "first epoch with erasing, from 0 (paper, 4.4)", least=0
    ),
    "augment.colour_jitter": Field(
        0.0,
        "brightness, contrast and saturation change by up to this share; 0 = none (ours)",
        least=0,
        most=1,
    ),
    "augment.grey_probability": Field(0.0, "probability of a grey image (ours)", least=0, most=1),
    # The evaluation
    "eval.datasets": Resumable(
        (),
        "data sets to test on; () = the training data sets (ours)",
        own=True,
        example=("msmt17",),
    ),
    "eval.every_epochs": Resumable(
        0, "evaluate while training; 0 = at the end only (paper, 4.4)", least=0
    ),
    "eval.step": Resumable(
        0, "checkpoint to restore; 0 = latest, -1 = best on val (ours)", least=-1, most=2**63 - 1
    ),
    "eval.batch": Resumable(
        64, "images embedded in a step, over all devices (ours)", above=0, most=2**16
    ),
    "eval.ap": Resumable(
        "precision",
        "average precision: mean precision at the hits, or trapezoid (ours)",
        choices=("precision", "trapezoid"),
    ),
    "eval.same_camera": Resumable(
        "remove",
        "images of the query's identity and camera; kept if unknown (published code)",
        choices=("remove", "keep"),
    ),
    "eval.leave_out_own": Resumable(
        False, "leave out the gallery image whose file equals the query's (ours)"
    ),
    "eval.multi_query": Resumable(
        "none",
        "pool Market-1501's gt_bbox of the query's identity and camera (ours)",
        choices=("none", "mean", "max"),
    ),
    "eval.breakdown": Resumable(False, "add figures for each camera and identity (ours)"),
    "eval.bootstrap": Resumable(0, "samples for confidence intervals; 0 = none (ours)", least=0),
    "eval.rerank": Resumable(False, "add figures after re-ranking, Zhong et al., CVPR 2017 (ours)"),
    "eval.expand": Resumable(
        0,
        "add figures of queries averaged with their first N hits, Chum et al., ICCV 2007 (ours)",
        least=0,
    ),
    "eval.expand_alpha": Resumable(
        0.0, "weight of a hit: its cosine to this power, Radenovic et al., 2018 (ours)", least=0
    ),
    "eval.single_shot": Resumable(
        0,
        "add CMC with one gallery image for each identity, mean of N draws, as for CUHK03 (ours)",
        least=0,
    ),
    "eval.verification": Resumable(False, "add error rates over all pairs, and thresholds (ours)"),
    "eval.open_set": Resumable(False, "add identification of known and unknown people (ours)"),
    "eval.distractors": Resumable(
        False, "add Market-1501's 500,000 distractors to the gallery (ours)"
    ),
    # The checkpoints
    "checkpoint.every_epochs": Resumable(
        10, "save every N epochs, and at the end; 0 = at the end only (ours)", least=0
    ),
    "checkpoint.keep": Resumable(3, "keep the N newest (ours)", above=0),
    "checkpoint.keep_best": Resumable(
        1, "also keep the N best by mAP on held-out identities (ours)", least=0
    ),
    # Records of the run
    "profile": Resumable(False, "write a trace of 3 steps to the workdir's profile/ (ours)"),
    "log.every_steps": Resumable(
        10, "steps between two lines of metrics.jsonl and TensorBoard (ours)", above=0
    ),
}


def default_config() -> ml_collections.ConfigDict:
    """Return the defaults: the paper's settings for Market-1501, DukeMTMC-reID and MSMT17.

    The config is locked: setting a field that is not in `FIELDS` raises an error.
    """
    config = ml_collections.ConfigDict()
    for name, field in FIELDS.items():
        section, _, own = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[own] = field.default
    config.lock()
    return config


def complete(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved settings by their dotted names, completed with the fields that they lack.

    A field that is newer than the saved settings has its value `before`, or its default.
    """
    missing = {
        name: field.default if field.before is None else field.before
        for name, field in FIELDS.items()
    }
    return missing | flatten(saved)


def older_values(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value `before` of each field that has one and is newer than saved settings."""
    known = flatten(saved)
    return {
        name: field.before
        for name, field in FIELDS.items()
        if field.before is not None and name not in known
    }


def set_fields(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Set fields of a config by their dotted names."""
    for name, value in values.items():
        section, _, own = name.rpartition(".")
        (config[section] if section else config)[own] = value


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts or of a config by their dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _resumable_fields() -> tuple[str, ...]:
    """Return the resumable fields' names, with a whole section under the section's name."""
    fixed = {name.split(".")[0] for name, field in FIELDS.items() if not field.resumable}
    names = [name for name, field in FIELDS.items() if field.resumable]
    sections = [name.split(".")[0] for name in names]
    pairs = zip(names, sections, strict=True)
    return tuple(dict.fromkeys(name if section in fixed else section for name, section in pairs))


RESUMABLE_FIELDS = _resumable_fields()
"""Fields and whole sections that may change when a run is resumed. A section is named as a whole,
because an older run may have saved a field of it that no longer exists."""
