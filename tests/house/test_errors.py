"""Messages on one line, whatever is in them."""

import pytest

from batnet_jax.errors import MAX_CHARACTERS, MAX_REASON, UserError, first_line, one_line


@pytest.mark.parametrize(
    ("error", "whole", "first"),
    [
        (ValueError("a  b\n\tc\n"), "a b c", "a b"),
        (ValueError("\n one\ntwo"), "one two", "one"),
        (KeyError(), "KeyError", "KeyError"),
        (OSError(2, "No such file"), "[Errno 2] No such file", "[Errno 2] No such file"),
    ],
)
def test_another_librarys_message(error, whole, first):
    assert one_line(error) == whole
    assert first_line(error) == first


def test_lengths():
    assert (
        one_line(ValueError("x" * 9999)) == first_line(ValueError("x" * 9999)) == "x" * MAX_REASON
    )
    assert one_line("y" * 9999, limit=500) == "y" * 500
    assert MAX_CHARACTERS < len(str(UserError("z" * 9999))) < MAX_CHARACTERS + 10


def test_control_characters_are_written_out():
    assert str(UserError("a\x1b[2Jb\nc\u202ed")) == "a\\x1b[2Jb\\nc\\u202ed"
