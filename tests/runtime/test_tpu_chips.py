import math

import pytest

from batnet_jax.errors import UserError
from batnet_jax.runtime import tpu_chips
from batnet_jax.runtime.tpu_chips import CHIPS, Slice, describe_devices, parse_slice, shape_of


@pytest.mark.parametrize(
    ("text", "chip", "count", "hosts"),
    [
        ("v4-8", "v4", 4, 1),  # two cores a chip
        ("v4-32", "v4", 16, 4),
        ("v5p-16", "v5p", 8, 2),
        ("v5litepod-1", "v5e", 1, 1),
        ("v5litepod-8", "v5e", 8, 1),  # eight chips on a machine
        ("v5litepod-16", "v5e", 16, 4),
        ("v6e-4", "v6e", 4, 1),
    ],
)
def test_a_type_of_google_is_a_number_of_chips(text, chip, count, hosts):
    found = parse_slice(text)
    assert found == Slice(chip, count)
    assert found.host_count == hosts


@pytest.mark.parametrize("text", ["v9-8", "v4", "v4-", "v4-7", "v4-4", "v5litepod-3", "V4-8", "-4"])
def test_a_wrong_type_is_named_with_what_is_allowed(text):
    with pytest.raises(UserError, match=rf"'{text}'.*give.*-"):
        parse_slice(text)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("count", [1, 4, 8, 16, 32, 64, 128, 256])
def test_a_shape_has_all_chips(chip, count):
    shape = shape_of(chip, count)
    assert (len(shape), math.prod(shape)) == (CHIPS[chip].sides, count)
    assert max(shape) <= 4 * min(shape)


def test_shapes_are_those_of_googles_pages():
    assert [shape_of("v4", n) for n in (4, 8, 16, 32)] == [
        (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4),
    ]  # fmt: skip
    assert [shape_of("v5e", n) for n in (4, 8, 16, 32)] == [(2, 2), (2, 4), (4, 4), (4, 8)]


def test_the_clock_follows_from_the_peak():
    # 197 TFLOP/s of 4 units of 128 x 128, 2 operations each: 1.5 GHz; two cores of v4: 1.05 GHz.
    assert CHIPS["v5e"].hertz == pytest.approx(1.503e9, rel=1e-3)
    assert CHIPS["v4"].hertz == pytest.approx(1.049e9, rel=1e-3)


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tpu_chips, "has_compiler", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'batnet-jax\[tpu\]'"):
        describe_devices("v5e", 1)
