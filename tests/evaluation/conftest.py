"""A fixture of the tests that compare runs."""

from support.evaluated_runs import pair  # noqa: F401
