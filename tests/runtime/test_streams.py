"""Standard output and error: their reader goes, their disk is full, their encoding is narrow."""

import os
import subprocess
import sys

import pytest
from support.paths import ROOT

PROGRAM = """
import sys
from batnet_jax.errors import RunFailure
from batnet_jax.runtime.streams import flush_streams, keep_streams
keep_streams()
try:
    {body}
    flush_streams()
except RunFailure as error:
    print(f"error: {{error}}", file=sys.stderr)
    sys.exit(1)
"""
MANY = "[print('line', number) for number in range(100_000)]"
"""Far more than a pipe holds."""


def run(body, *, stdout, encoding="utf-8", **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, env=environment, **options
    )


@pytest.mark.parametrize("body", [MANY, "print('one line')", "print('x', flush=True)"])
@pytest.mark.parametrize("read", [0, 5])
def test_a_closed_pipe_ends_nothing(body, read, tmp_path):
    mark = tmp_path / "mark"
    with run(f"{body}; open({str(mark)!r}, 'w').close()", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(read if body == MANY else 0)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert mark.exists()


def test_both_streams_may_be_closed():
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    body = f"{MANY}; [print('e', file=sys.stderr) for _ in range(10_000)]"
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    assert subprocess.run(command, stdout=writing, stderr=writing, env=environment).returncode == 0
    os.close(writing)


def test_a_full_disk_behind_the_output_is_one_line():
    """The device `/dev/full` accepts nothing."""
    with open("/dev/full", "w") as full, run(MANY, stdout=full) as process:
        assert process.stderr is not None
        text = process.stderr.read().decode()
    assert process.returncode == 1
    assert text == (
        "error: cannot write to standard output (No space left on device): make room; files that "
        "were written are whole\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "ascii:strict", "latin-1", "utf-8:strict"])
def test_names_of_any_bytes_are_printed(encoding):
    name = r"'caf\u00e9 \u732b \udcff'"
    body = f"print({name}); print({name}, file=sys.stderr)"
    with run(body, stdout=subprocess.PIPE, encoding=encoding) as process:
        out, err = process.communicate()
    assert process.returncode == 0
    for found in (out, err):
        assert rb"\udcff" in found
        assert (rb"\u732b" in found) == ("utf" not in encoding)


def test_the_streams_are_otherwise_those_of_python():
    body = "print(sys.stdout.isatty(), sys.stdout.encoding, sys.stderr.fileno())"
    with run(body, stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == b"False utf-8 2\n"


def test_a_process_without_streams():
    body = "print(1)"
    script = "import os; os.close(1); os.close(2); import subprocess, sys;"
    script += f"sys.exit(subprocess.call([sys.executable, '-c', {PROGRAM.format(body=body)!r}]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, close_fds=False)
    assert done.returncode == 0
