"""Errors while the file of a flag is written."""

import errno
from pathlib import Path

import pytest

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import write_features
from batnet_jax.modes.flags import report_write_errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "no room"), r"^cannot write --output=run \(no room\)$"),
        (OSError("no number"), r"^cannot write --output=run \(no number\)$"),
        (ValueError("[os_error_code='28']"), r"^cannot write --output=run \(No space left on "),
        (ValueError("a bug"), "^a bug$"),
        (UserError("a mistake"), "^a mistake$"),
        (KeyError("another bug"), "^'another bug'$"),
    ],
)
def test_errors_of_the_disk_become_one_line(error, message):
    with (
        pytest.raises(Exception, match=message) as raised,
        report_write_errors("output", Path("run")),
    ):
        raise error
    assert isinstance(raised.value, UserError) == ("bug" not in message)


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write --output=.*file/F\.npz"),
        report_write_errors("output", tmp_path / "file/F.npz"),
    ):
        write_features(tmp_path / "file/F.npz", [], shape=(0, 9), paths=[])
    with (
        pytest.raises(UserError, match=r"is a folder: name a file$"),
        report_write_errors("output", tmp_path),
    ):
        raise AssertionError("the body must not run")
    with report_write_errors("output", tmp_path, folder=True):
        (tmp_path / "F").write_text("")
    assert (tmp_path / "F").exists()
