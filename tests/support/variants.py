"""Variants of a long test, of which the default run takes a few."""

import pytest


def few(variants, *, keep):
    """Return the variants for `parametrize`, all slow but those at the places `keep`.

    A variant that is a tuple gives one value to each of several arguments.
    """
    assert set(keep) < set(range(len(variants)))
    return [variant if place in keep else slow(variant) for place, variant in enumerate(variants)]


def slow(variant):
    """Leave one variant to `make test-all`."""
    values = variant if isinstance(variant, tuple) else (variant,)
    return pytest.param(*values, marks=pytest.mark.slow)
