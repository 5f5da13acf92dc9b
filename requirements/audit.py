"""Ask for known flaws of the packages that requirements/ lists; `make lint` calls this.

A flaw that a later version mends ends the script with status 1. Other flaws are only printed. Where
the index cannot be reached, or does not know of flaws, a line says so, with status 0.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TIMEOUT = 300
"""Seconds; an index that does not answer must not hold up `make lint`."""


def ask() -> list[dict[str, Any]] | None:
    """Return pip-audit's findings, one dictionary a package; None if it got no answer."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off"]
        command += ["--format=json", f"--requirement={path}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            answers = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
        found |= {f"{answer['name']} {answer.get('version')}": answer for answer in answers}
        if all("skip_reason" in answer for answer in found.values()):
            break  # the index knows none: more questions would take half a minute
    return list(found.values())


def judge(found: list[dict[str, Any]] | None) -> tuple[list[str], int]:
    """Return what to print about the findings, and the exit status."""
    known = [package for package in found or [] if "skip_reason" not in package]
    if not known:
        return ["no index that knows of flaws can be reached: packages are not checked"], 0
    lines, status = [], 0
    for package in known:
        for flaw in package["vulns"]:
            mended = " or ".join(flaw["fix_versions"])
            remedy = (
                f"raise it in constraints.txt to {mended}" if mended else "nothing mends it yet"
            )
            lines.append(f"{package['name']} {package['version']} has {flaw['id']}: {remedy}")
            status = 1 if mended else status
    return [*lines, f"{len(known)} of {len(found or [])} packages checked for known flaws"], status


if __name__ == "__main__":
    said, ended = judge(ask())
    print(*said, sep="\n")
    sys.exit(ended)
