"""``asyncworker.state`` in real workers: through retries, redelivery and kill -9, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery

from asyncworker import AsyncTask, ItemErrors
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.tasks.forgetting import forget_outcome
from tests.integration import state_tasks
from tests.servers.postgres import Postgres
from tests.servers.worker import Worker
from tests.unit.store import test_state as on_sqlite

GET_S = 120.0
MODULE = state_tasks.__name__


@pytest.fixture(params=["sqlite", "postgres"])
def worker_env(request: pytest.FixtureRequest, worker_env: dict[str, str]) -> dict[str, str]:
    """The same, once for each database; the client needs the store of neither."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        worker_env["ASYNCWORKER_STORE_URL"] = server.url(server.add_database())
    return worker_env


@pytest.mark.promise("state-is-found-again")
def test_retries_and_items_and_threads(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    worker(MODULE, "--without-mingle")
    tasks = client.tasks
    assert tasks["s.retries"].delay().get(timeout=GET_S) == [0, 1, 2, 3]
    pages, thread = tasks["s.retries_sync"].delay().get(timeout=GET_S)
    assert pages == [0, 1, 2, 3]
    assert thread.startswith("asyncworker-task")
    assert tasks["s.autoretries"].delay().get(timeout=GET_S) == 3
    # A task's last words are stored before its failure is.
    failed = tasks["s.last_words"].delay()
    with pytest.raises(KeyError):
        failed.get(timeout=GET_S)
    assert tasks["s.said"].apply_async(task_id=failed.id + "x").get(timeout=GET_S) is None
    forget_outcome(failed)
    assert tasks["s.said"].apply_async(task_id=failed.id).get(timeout=GET_S) == "goodbye"
    # Many at once, each with its own.
    results = [tasks["s.busy"].delay(100) for _ in range(50)]
    assert [result.get(timeout=GET_S) for result in results] == [99] * 50
    # What an item remembers is there when it is run again.
    run = tasks["s.item"].partial().options(results="inline", concurrency=5)
    result = run.iterate(number=range(20)).apply_async(task_id="fan-out")
    with pytest.raises(ItemErrors, match="10 of 20"):
        result.get(timeout=GET_S)
    forget_outcome(result)
    again = run.iterate(number=range(20)).apply_async(task_id="fan-out")
    assert again.get(timeout=GET_S) == [2] * 20
    # In whichever partition, wherever that is run.
    run = run.options(partitions=3)
    result = run.iterate(number=range(20)).apply_async(task_id="split")
    with pytest.raises(ItemErrors, match="10 of 20"):
        result.get(timeout=GET_S)
    forget_outcome(result)
    again = run.iterate(number=range(20)).apply_async(task_id="split")
    assert again.get(timeout=GET_S) == [2] * 20


@pytest.mark.promise("item-has-its-own-state")
def test_an_item_has_a_state_of_its_own_and_the_run_has_one(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    node = worker(MODULE, "--without-mingle")
    own = [[[] if n % 3 == 0 else [n, n], 2] for n in range(12)]
    for options in ({}, {"key": "number"}, {"partitions": 3}):
        run = client.tasks["s.of_item"].partial().options(retries=1, backoff_s=0, results="inline", **options)
        for id in ("ok", "ok"):
            # Nothing of the items' is left when the run has ended well; the run's is.
            sent = run.iterate(number=range(12)).apply_async(task_id=f"{id} {options}")
            assert [mine for mine, _ in sent.get(timeout=GET_S)] == [mine for mine, _ in own]
            forget_outcome(sent)
    sync = client.tasks["s.of_item_sync"].partial().options(retries=1, backoff_s=0, results="inline")
    assert sync.iterate(number=range(3)).delay().get(timeout=GET_S) == [[[n, n], 2] for n in range(3)]
    assert client.tasks["s.runs_items"].delay().get(timeout=GET_S) == [
        [[[1, 1], 1 + 1], [[2, 2], 1 + 1]],
        "the task's",
        1 + 1,
    ]
    assert "could be written" not in node.log()


@pytest.mark.promise("state-is-found-again")
def test_what_an_item_remembers_is_there_for_a_later_attempt_of_its_run(
    worker: Callable[..., Worker], client: Celery[AsyncTask]
) -> None:
    worker(MODULE, "--without-mingle")
    run = client.tasks["s.of_item"].partial(fail=True).options(retries=1, backoff_s=0, results="inline", key="number")
    result = run.iterate(number=[0, 1, 2]).apply_async(task_id="again")
    with pytest.raises(KeyError):
        result.get(timeout=GET_S)
    forget_outcome(result)
    again = run.iterate(number=[0, 1, 2]).apply_async(task_id="again")
    assert again.get(timeout=GET_S)[1][0] == [1, 1, 1, 1]


@pytest.mark.promise("flushed-state-survives-kill")
def test_kill_and_redelivery_go_on_where_the_state_stands(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(MODULE, "--without-mingle")
    result = client.tasks["s.pages"].delay(20, str(log), str(gate))
    while not log.exists() or len(log.read_text().split()) < 10:
        pass
    first.kill()
    first.wait()
    gate.touch()
    with redis.Redis.from_url(valkey.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    worker(MODULE, "--without-mingle", name="second@test")
    began_at, page = result.get(timeout=GET_S)
    # The tenth page was logged, and perhaps killed before it was flushed.
    assert began_at in (9, 10)
    assert page == 20
    runs = Counter(int(line) for line in log.read_text().split())
    assert sorted(runs) == list(range(20))
    assert {page for page, times in runs.items() if times > 1} <= {9}


# -- the laws of the store, on PostgreSQL ------------------------------------------------------------------------------


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.url(postgres.add_database())


store, make = on_sqlite.store, on_sqlite.make

globals().update({name: test for name, test in vars(on_sqlite).items() if name.startswith("test_a") or "two" in name})
