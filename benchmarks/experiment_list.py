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
    """The settings in which the runs differ. The others are compared with the first arm."""
    seeds: int
    elsewhere: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """First rows of the table, whose runs are an arm of another experiment."""


EXPERIMENTS = {
    "demo": Experiment(
        "The demo as it is, on one device and on several, whose sums differ in the last bits.",
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
