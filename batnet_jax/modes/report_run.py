"""The facts of the report about a run: when, how long and where it was trained and evaluated."""

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batnet_jax.runtime.progress import format_seconds
from batnet_jax.workdir.environment import describe, read_starts


def run_facts(
    workdir: Path,
    lines: Sequence[Mapping[str, float]],
    settings: Mapping[str, Any],
    *,
    seconds: float,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return facts about a run's training and about this report, and the versions of packages.

    Args:
      workdir: of the run.
      lines: of `metrics.jsonl`.
      settings: of the run, by dotted names.
      seconds: that the evaluation for the report took.
    """
    starts, here = read_starts(workdir), describe()
    facts = {"written": _day(here["time"])}
    if starts:
        times = "" if len(starts) == 1 else f", started {len(starts)} times"
        facts["trained"] = f"from {_day(starts[0]['time'])}{times}"
        facts["trained on"] = _machine(starts[-1])
    if taken := seconds_of_steps(lines, settings):
        facts["time of the steps"] = format_seconds(taken)
    facts["evaluation"] = f"{format_seconds(seconds)}, with this report"
    facts["evaluated on"] = _machine(here)
    code = (starts[-1] if starts else here).get("git") or {}
    if isinstance(code, dict) and code.get("commit"):
        changed = ", with changes" if code.get("changed") else ""
        facts["code"] = f"{str(code['commit'])[:12]}{changed}"
    versions = {"python": here["python"], **here["packages"]}
    return facts, {name: str(version) for name, version in versions.items()}


def seconds_of_steps(lines: Sequence[Mapping[str, float]], settings: Mapping[str, Any]) -> float:
    """Return the time of all steps in the log, in seconds; 0 if the log does not have it."""
    people, each = (settings.get(f"batch.{n}") for n in ("identities", "images_per_identity"))
    if not (isinstance(people, int) and isinstance(each, int)):
        return 0.0
    images, taken, last = people * each, 0.0, 0.0
    for line in lines:
        rate, step = line.get("images_per_second", 0), line["step"]
        if rate > 0 and step > last:
            taken += (step - last) * images / rate
        last = step
    return taken


def _day(time: Any) -> str:
    """Return a time of `environment.describe` to the minute; other text unchanged."""
    try:
        own = datetime.datetime.fromisoformat(str(time)).astimezone(datetime.UTC)
    except ValueError:
        return str(time)
    return f"{own:%Y-%m-%d %H:%M} UTC"


def _machine(start: Mapping[str, Any]) -> str:
    """Describe the machine of a start: its devices, processors and system."""
    devices = start.get("devices")
    kinds = devices if isinstance(devices, dict) else {}
    parts = [f"{count} x {kind}" for kind, count in kinds.items() if kind != "cpu"]
    parts.append(f"{start.get('cpus', '?')} processors")
    system = re.match(r"[A-Za-z]+-[0-9.]+", str(start.get("system", "")))
    return ", ".join([*parts, *([system[0].replace("-", " ")] if system else [])])
