"""Damage files, read them, and watch what the reader does."""

import contextlib
import faulthandler
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batnet_jax.errors import MAX_CHARACTERS, UserError

SECONDS = 20
"""The limit of a case's processor time. A case takes well below a second."""
MEGABYTES = 1500
"""The limit of the memory that the cases of one test take. Undamaged, their files take a few."""
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.remove")
FORBIDDEN += ("os.rename", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_seen: list[str] | None = None
_inside = ""


def _watch(event, arguments):
    """Record the files that are written outside `_inside`, and the programs that are run."""
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR) and flags & os.O_TMPFILE != os.O_TMPFILE
        named = isinstance(path, str | bytes | os.PathLike)
        # A file without a name is opened by its folder.
        if writes and named and not f"{os.path.abspath(os.fsdecode(path))}/".startswith(_inside):
            _seen.append(f"writes {path!r}")
    elif event in FORBIDDEN:
        paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if not paths or not all(os.path.abspath(p).startswith(_inside) for p in paths):
            _seen.append(f"{event} {arguments!r}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def watched(folder=None):
    """Fail if the body runs a program, writes outside `folder`, or computes for `SECONDS`.

    With `folder=None` it may write no file at all.
    """
    global _seen, _inside
    _seen, _inside = [], f"{folder}/" if folder else "\0"
    start, before = time.process_time(), tempfile.tempdir
    tempfile.tempdir = str(folder) if folder else before
    try:
        yield
    finally:
        seen, _seen, tempfile.tempdir = _seen, None, before
    assert not seen, seen[:3]
    assert time.process_time() - start < SECONDS


def survives(read, *arguments, folder=None):
    """Call `read`; return its result, or the one line of its UserError. Fail at anything else."""
    with watched(folder):
        try:
            return read(*arguments)
        except UserError as error:
            message = str(error)
    assert "\n" not in message
    assert not CONTROL.search(message), ascii(message)
    assert len(message) < MAX_CHARACTERS + 100
    return message


def refused(message, read, *arguments, folder=None):
    """Assert that `read` raises a UserError with `message`."""
    found = survives(read, *arguments, folder=folder)
    assert isinstance(found, str), f"is read: {found!r}"
    assert message in found, found


@pytest.fixture(autouse=True)
def limits():
    """End the process if a case hangs in C; fail a test that takes too much memory."""
    faulthandler.dump_traceback_later(900, exit=True, file=sys.__stderr__)
    before = resident("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resident("VmHWM") - before < MEGABYTES


def resident(name):
    """Return a figure of this process's memory in MB, such as "VmRSS"; its peak elsewhere."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def examples(few, many):
    """Parametrise a test by the number of its cases: few by default, many in the slow tests."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzz(examples, check, *strategies):
    """Call `check` with drawn values: the same values each time, below 500 examples."""
    quiet = list(HealthCheck)
    chosen = settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 500,
        database=None,
        suppress_health_check=quiet,
        print_blob=True,
    )
    chosen(given(*strategies)(check))()


def fuzz_files(examples, reads, wholes, *more):
    """Check that each whole file is read, and call `reads` with damaged ones.

    Without the first check a reader that refuses everything would pass.

    Args:
      reads: takes the bytes of a file; returns whether the file was read.
      wholes: the bytes of undamaged files.
      more: the bytes of further files to damage, which may be refused.
    """
    for content in wholes:
        assert reads(content), "an undamaged file is refused"

    def check(content):
        reads(content)

    fuzz(examples, check, damaged([*wholes, *more]))


NUMBERS = [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x80"]
NUMBERS += [b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0\x01\0\0", b"\0\0\x01\0", b"\xff"]


@st.composite
def damaged(draw, wholes):
    """Draw one of several files, changed in up to four places, as by a disk or an attacker."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of the places are in the header, where the sizes are.
        size = min(len(content), draw(st.sampled_from([200, len(content)])))
        place = draw(st.integers(0, max(size - 1, 0)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["flip", "number", "cut", "drop", "insert", "copy"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "number":
                number = draw(st.sampled_from(NUMBERS))
                content[place : place + len(number)] = number
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + length]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=20))
            case "copy":
                other = draw(st.integers(0, max(len(content) - 1, 0)))
                content[place : place + length] = content[other : other + length]
    return bytes(content)
