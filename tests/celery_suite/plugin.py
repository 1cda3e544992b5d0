"""A pytest plugin for one side: which pool Celery's session worker has, and a line for each test that ended.

The suite stays as it is: its worker runs in a thread of the pytest process, where Celery's own fixtures start it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from celery.contrib.testing.worker import test_worker_starting

__all__ = ["CONCURRENCY", "OUTCOMES", "POOL", "celery_app", "celery_worker_parameters", "celery_worker_pool"]

#: The environment variables by which the runner says what this side is.
POOL = "CELERY_SUITE_POOL"
CONCURRENCY = "CELERY_SUITE_CONCURRENCY"
OUTCOMES = "CELERY_SUITE_OUTCOMES"


def pytest_configure() -> None:
    if os.environ[POOL] != "prefork":
        test_worker_starting.connect(_install, weak=False)


def _install(sender: Any, **_: Any) -> None:
    import asyncworker

    asyncworker.install(sender)


# These replace what the suite's conftest says; see ``source.prepare``.


@pytest.fixture
def celery_app(celery_app: Any) -> Any:
    """Each test's own app, by which tasks are called eagerly."""
    if os.environ[POOL] != "prefork":
        _install(celery_app)
    return celery_app


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    return os.environ[POOL]


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    return {"concurrency": int(os.environ[CONCURRENCY]), "shutdown_timeout": 60}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    line = {
        "test": report.nodeid,
        "outcome": "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome,
        "when": report.when,
        "seconds": round(report.duration, 2),
        "why": "" if report.passed else str(report.longrepr),
    }
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(json.dumps(line) + "\n")
