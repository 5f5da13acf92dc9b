"""The experiments of docs/results.md: their configs, their arms and their seeds."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Experiment(NamedTuple):
    """Runs that differ in some settings, each over several seeds."""

    question: str
    """What the experiment answers, in a sentence."""
    config: str
    """The name of a file of configs/."""
    settings: dict[str, Any]
    """Settings of all runs that differ from the config's; `devices` = of the CPU, for pmap."""
    arms: dict[str, dict[str, Any]]
    """The settings in which the runs differ. The others are compared with the first arm.

    FILES in a value is the folder of `--files`: images and weights that are not in the repository.
    """
    seeds: int
    elsewhere: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """First rows of the table, whose runs are an arm of another experiment."""


ATTENTIONS: dict[str, dict[str, Any]] = {
    "aia": {},
    "no_attention": {"model.attention": "none"},
    "plain_attention": {"model.attention": "plain"},
}

EXPERIMENTS = {
    "demo": Experiment(
        "The demo as it is, on one device and on several, whose sums differ in the last bits; and "
        "with another attention, paired by seed.",
        "demo",
        {},
        {
            "one_device": {},
            "two_devices": {"devices": 2},
            "four_devices": {"devices": 4},
            "no_attention": {"model.attention": "none"},
            "plain_attention": {"model.attention": "plain"},
        },
        seeds=10,
    ),
    "without_parts": Experiment(
        "The demo without part streams, the appearance extractor alone, by its attention.",
        "demo",
        {"model.num_parts": 0},
        ATTENTIONS,
        seeds=5,
    ),
    "position": Experiment(
        "The demo with the attention at other positions; it stands at p2.",
        "demo",
        {},
        {name: {"model.position": name} for name in ("p1", "p3", "p4")},
        seeds=5,
        elsewhere={"no_attention": ("demo", "no_attention"), "p2": ("demo", "one_device")},
    ),
    "reduction": Experiment(
        "The demo with another reduction factor r; it has r = 4.",
        "demo",
        {},
        {f"r{r}": {"model.reduction": r} for r in (2, 8, 16, 32)},
        seeds=5,
        elsewhere={"no_attention": ("demo", "no_attention"), "r4": ("demo", "one_device")},
    ),
    "imagenet_icons": Experiment(
        "BAT-net at width 1 from ImageNet weights, on icons of six desktop themes: images of 64 x "
        "64 pixels, 475 of 100 icons to train, 60 queries and a gallery of 192 of 60 other icons.",
        "folder",
        {
            "data.manual_dir": "FILES/icons_market.zip",
            "data.image_size": (64, 64),
            "init.from": "FILES/googlenet_imagenet_published.safetensors",
            "model.backbone": "published",
            "model.width": 1.0,
            "fit": "none",
            "steps": 600,  # 40 epochs
            "learning_rate": 5e-4,  # the paper's
            "warmup_epochs": 4,
            "decay_epochs": (24, 34),
            "augment.erasing_start_epoch": 10,
            "checkpoint.every_epochs": 10,
        },
        {
            **ATTENTIONS,
            "no_parts": {"model.num_parts": 0},
            "no_parts_no_attention": {"model.num_parts": 0, "model.attention": "none"},
        },
        seeds=5,
    ),
    "constant_rate": Experiment(
        "The demo without its decay in the last epoch, on one device and on several; and with "
        "another attention, paired by seed.",
        "demo",
        {"decay_epochs": ()},
        {
            "one_device": {},
            "two_devices": {"devices": 2},
            "four_devices": {"devices": 4},
            "no_attention": {"model.attention": "none"},
            "plain_attention": {"model.attention": "plain"},
        },
        seeds=10,
    ),
    "recipe": Experiment(
        "The demo's recipe without its decay, with one change at a time.",
        "demo",
        {"decay_epochs": ()},
        {
            "as_it_is": {},
            "cosine": {"steps": 0, "num_epochs": 12, "schedule": "cosine"},
            "no_warm_up": {"warmup_epochs": 0},
            "a_third_of_the_rate": {"learning_rate": 1e-3},
        },
        seeds=3,
    ),
    "recipes_of_today": Experiment(
        "A quarter of the network without parts, on images of 64 x 32 pixels, with one change at a "
        "time.",
        "demo",
        {"data.image_size": (64, 32), "model.num_parts": 0, "model.neck": "bnneck"},
        {
            "as_it_is": {},
            "papers_head": {"model.neck": "none"},
            "gem": {"model.neck": "bnneck_gem"},
            "no_label_smoothing": {"loss.label_smoothing": 0.0},
            "soft_triplet": {"loss.function": "soft_triplet"},
            "circle": {"loss.function": "circle", "loss.margin": 0.25},
            "am_softmax": {"model.classifier": "am_softmax"},
            "arcface": {"model.classifier": "arcface", "loss.class_margin": 0.5},
            "ema": {"ema_decay": 0.99},
            "grey_and_jitter": {"augment.grey_probability": 0.05, "augment.colour_jitter": 0.2},
            "clipping": {"clip_norm": 10.0},
        },
        seeds=5,
    ),
}
