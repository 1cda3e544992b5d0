"""The stores on which schedules run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncworker.iterate import engine
from asyncworker.store import Store, open_store
from tests.interleavings.world import process_lock
from tests.servers.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.url(postgres.add_database())


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await open_store(url)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def _a_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each holder the lock that its process would have."""
    monkeypatch.setattr(engine, "alone", lambda: process_lock.get())


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--chaos-seed"))


@pytest.fixture
def schedules(request: pytest.FixtureRequest) -> int:
    """How many random schedules of a scenario."""
    return int(request.config.getoption("--interleavings"))


@pytest.fixture
def every(request: pytest.FixtureRequest) -> int:
    """Of the schedules with two deviations each n-th is run."""
    return int(request.config.getoption("--interleavings-every"))
