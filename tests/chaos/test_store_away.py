"""The store goes away in mid-run: a run waits and goes on, or stops and can be resumed, by setting."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from asyncworker import AsyncTask
from asyncworker.errors import StoreError
from tests.integration import state_tasks, tasks
from tests.servers.postgres import Postgres, running_postgres
from tests.servers.worker import Worker

GET_S = 120.0
COUNT = 1500
MODULE = f"{tasks.__name__},{state_tasks.__name__}"
GO_ON, STOP = {"ASYNCWORKER_STORE_PATIENCE_S": "60"}, {"ASYNCWORKER_STORE_PATIENCE_S": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of this module's own: it is stopped and started."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.url(server.add_database())


@pytest.fixture
def on_postgres(worker_env: dict[str, str], client: Celery[AsyncTask], url: str) -> None:
    client.conf.asyncworker_store_url = worker_env["ASYNCWORKER_STORE_URL"] = url


def fan_out(client: Celery[AsyncTask], log: Path) -> object:
    items = client.tasks["t.item"].partial(pause_s=0.1, log=str(log)).options(concurrency=20)
    return items.iterate(number=range(COUNT))


def stop_with(server: Postgres, result: Any) -> None:
    """Have a run that is under way stop because the store is away; then the store is back."""
    while not result.progress().done:
        time.sleep(0.02)
    server.stop()
    try:
        with pytest.raises(StoreError, match="store postgresql"):
            result.get(timeout=GET_S)
    finally:
        server.start()


@pytest.mark.usefixtures("on_postgres")
@pytest.mark.promise("store-away-is-waited-for")
def test_a_patient_run_waits_for_postgres_and_goes_on(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    node = worker(MODULE, "--without-mingle", env=GO_ON)
    result = fan_out(client, log).delay()  # type: ignore[attr-defined]
    while not result.progress().done:
        time.sleep(0.02)
    server.stop()
    try:
        node.wait_for_log(f"run {result.id}: checkpoint failed, next try in")
        # Items go on meanwhile.
        begun = len(log.read_text().split())
        until = time.monotonic() + GET_S
        while len(log.read_text().split()) == begun < COUNT:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        server.start()
    assert result.get(timeout=GET_S)["done"] == COUNT
    assert result.results() == [2 * n for n in range(COUNT)]
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1


@pytest.mark.usefixtures("on_postgres")
@pytest.mark.promise("store-away-is-waited-for")
def test_an_impatient_run_stops_and_is_resumed(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    node = worker(MODULE, "--without-mingle", env=STOP)
    result = fan_out(client, log).delay()  # type: ignore[attr-defined]
    stop_with(server, result)
    held = result.progress()
    assert (held.state, held.complete) == ("running", False)  # nobody could write that it ended
    assert result.resume().get(timeout=GET_S)["resumed"] == held.done > 0
    assert result.results() == [2 * n for n in range(COUNT)]
    assert len(Counter(log.read_text().split())) == COUNT
    assert node.returncode is None


@pytest.mark.usefixtures("on_postgres")
@pytest.mark.promise("store-away-is-waited-for")
@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("opened", [True, False], ids=["opened", "unopened"])
def test_a_run_that_starts_while_postgres_is_away_waits_for_it(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres, opened: bool, partitions: int
) -> None:
    node = worker(MODULE, "--without-mingle", env=GO_ON)
    items = client.tasks["t.item"].partial(pause_s=0).options(concurrency=20, partitions=partitions)
    if opened:
        assert items.iterate(number=range(3)).delay().get(timeout=GET_S)["done"] == 3
    server.stop()
    try:
        result = items.iterate(number=range(50)).delay()
        node.wait_for_log(f"{result.id} failed, next try in")
    finally:
        server.start()
    assert result.get(timeout=GET_S)["done"] == 50
    assert result.results() == [2 * n for n in range(50)]


@pytest.mark.usefixtures("on_postgres")
@pytest.mark.promise("store-away-is-waited-for")
def test_a_worker_that_ends_while_a_run_waits_for_postgres_leaves_it_to_the_next_one(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres
) -> None:
    node = worker(MODULE, "--without-mingle", env=GO_ON)
    items = client.tasks["t.item"].partial(pause_s=0).options(concurrency=20)
    server.stop()
    try:
        result = items.iterate(number=range(50)).delay()
        node.wait_for_log(f"{result.id} failed, next try in")
        assert node.stop(GET_S) == 0
    finally:
        server.start()
    worker(MODULE, "--without-mingle", env=GO_ON, name="next@test")
    assert result.get(timeout=GET_S)["done"] == 50


@pytest.mark.usefixtures("on_postgres")
def test_a_run_that_has_stopped_while_postgres_was_away_does_not_stay_running(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres, tmp_path: Path
) -> None:
    worker(MODULE, "--without-mingle", env=STOP | {"ASYNCWORKER_LEASE_S": "3"})
    result = fan_out(client, tmp_path / "log").delay()  # type: ignore[attr-defined]
    stop_with(server, result)
    until = time.monotonic() + GET_S
    while result.progress().state == "running":
        assert time.monotonic() < until
        time.sleep(0.02)
    ended = result.progress()
    assert (ended.state, ended.complete) == ("failed", False)
    assert "StoreError" in ended.error
    assert result.resume().get(timeout=GET_S)["done"] == COUNT


@pytest.mark.usefixtures("on_postgres")
def test_state_waits_for_postgres_too(
    worker: Callable[..., Worker], client: Celery[AsyncTask], server: Postgres, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    node = worker(MODULE, "--without-mingle", env=GO_ON)
    result = client.tasks["s.pages"].delay(20, str(log), str(gate))
    while not log.exists() or len(log.read_text().split()) < 10:
        time.sleep(0.02)
    server.stop()
    try:
        gate.touch()
        node.wait_for_log("state of 1 tasks failed, next try in")
    finally:
        server.start()
    assert result.get(timeout=GET_S) == [0, 20]
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1


@pytest.mark.parametrize("env", [GO_ON, STOP], ids=["patient", "impatient"])
def test_a_sqlite_file_that_is_locked(
    worker: Callable[..., Worker], client: Celery[AsyncTask], state_dir: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    log = tmp_path / "log"
    node = worker(MODULE, "--without-mingle", env=env)
    result = fan_out(client, log).delay()  # type: ignore[attr-defined]
    while not result.progress().done:
        time.sleep(0.02)
    lock = sqlite3.connect(state_dir / "store.sqlite", isolation_level=None, timeout=120)
    try:
        lock.execute("BEGIN IMMEDIATE")
        if env is STOP:
            with pytest.raises(StoreError, match="database is locked"):
                result.get(timeout=GET_S)
        else:
            # All items run to their end while nothing can be written, and each is held until it can.
            until = time.monotonic() + GET_S
            while len(log.read_text().split()) < COUNT:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert result.progress().done < COUNT
    finally:
        lock.close()
    if env is STOP:
        result.resume()
    assert result.get(timeout=GET_S)["done"] == COUNT
    assert result.results() == [2 * n for n in range(COUNT)]
    runs = Counter(log.read_text().split())
    assert len(runs) == COUNT
    assert env is STOP or runs.most_common(1)[0][1] == 1
    assert node.returncode is None
