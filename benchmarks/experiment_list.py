"""The experiments of docs/results.md: their configs, their arms and their seeds."""

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


SCRATCH = {"eval.every_epochs": 2}
EXPERIMENTS = {
    "demo": Experiment(
        "The demo as it is, on one device and on several, whose sums differ in the last bits.",
        "demo",
        {},
        {"one_device": {}, "two_devices": {"devices": 2}, "four_devices": {"devices": 4}},
        seeds=10,
    ),
}
