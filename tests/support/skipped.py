"""The option --only-skipped: run what was skipped, once what it needs is installed.

A run without the option keeps the names of the tests and the files that it skipped in pytest's
cache. A run with it runs these alone, and leaves the names as they are.
"""

import pytest

KEY = "batnet/skipped"


def pytest_addoption(parser):
    parser.addoption(
        "--only-skipped",
        action="store_true",
        help="run only what the last run without this option skipped",
    )


def pytest_configure(config):
    if hasattr(config, "cache"):  # -p no:cacheprovider leaves it out
        config.pluginmanager.register(Skipped(config))


class Skipped:
    """Keep the names; select by them. Workers of pytest-xdist select, the main process keeps."""

    def __init__(self, config):
        self.config = config
        self.chosen = config.getoption("only_skipped")
        self.keeps = not (
            self.chosen or config.getoption("collectonly") or hasattr(config, "workerinput")
        )
        self.names = set()

    def pytest_collectreport(self, report):
        if report.skipped:
            self.names.add(report.nodeid)

    def pytest_runtest_logreport(self, report):
        if report.skipped and not hasattr(report, "wasxfail"):
            self.names.add(report.nodeid)

    def pytest_collection_modifyitems(self, config, items):
        if not self.chosen:
            return
        names = set(config.cache.get(KEY, []))
        selected = [item for item in items if names & {item.nodeid, item.nodeid.partition("::")[0]}]
        config.hook.pytest_deselected(items=[item for item in items if item not in selected])
        items[:] = selected

    def pytest_sessionfinish(self, session, exitstatus):
        if self.chosen and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # nothing had been skipped
        if self.keeps:
            self.config.cache.set(KEY, sorted(self.names))
