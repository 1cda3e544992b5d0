"""A pytest plugin: keeps the last result of each test that is marked with a promise, in pytest's cache."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import Counter
from pathlib import Path

import pytest

#: In pytest's cache; one entry a test, of the last run that had it.
CACHE_KEY = "promises/results"

#: A test's outcome is the worst of its set-up, call and tear-down.
WORST_FIRST = ("failed", "skipped", "passed")


@dataclasses.dataclass(frozen=True)
class Result:
    """The last result of a test: how many of its cases had each outcome, and when the run ended."""

    outcomes: dict[str, int]
    at: str

    def __str__(self) -> str:
        counts = [f"{self.outcomes[outcome]} {outcome}" for outcome in WORST_FIRST if outcome in self.outcomes]
        return f"{', '.join(counts)} ({self.at})"


def read_results(cache: Path) -> dict[str, Result]:
    """Return the last result of each test by its node id without parameters; empty before the first run."""
    path = cache / "v" / CACHE_KEY
    if not path.exists():
        return {}
    return {test: Result(**result) for test, result in json.loads(path.read_text()).items()}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Recorder(config), "promise-recorder")


class _Recorder:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: dict[str, str] = {}  # by node id

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Properties travel with the reports from xdist's workers; markers do not.
        for item in items:
            item.user_properties += [("promise", mark.args[0]) for mark in item.iter_markers("promise")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if any(name == "promise" for name, _ in report.user_properties):
            before = self._outcomes.get(report.nodeid, report.outcome)
            self._outcomes[report.nodeid] = min(before, report.outcome, key=WORST_FIRST.index)

    def pytest_sessionfinish(self) -> None:
        cache = getattr(self._config, "cache", None)  # none with -p no:cacheprovider
        if cache is None or hasattr(self._config, "workerinput") or not self._outcomes:
            return
        at = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="minutes")
        counts: dict[str, Counter[str]] = {}
        for nodeid, outcome in self._outcomes.items():
            counts.setdefault(nodeid.partition("[")[0], Counter())[outcome] += 1
        results = {test: dataclasses.asdict(Result(dict(count), at)) for test, count in counts.items()}
        cache.set(CACHE_KEY, cache.get(CACHE_KEY, {}) | results)
