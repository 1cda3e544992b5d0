"""Results that are stored in batches: what a stock client reads, what is never overwritten, what follows a result."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord, group
from celery.backends.redis import RedisBackend

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker.provisional import ProvisionalState
from asyncworker.worker.results import ResultWriter
from tests.integration import slow_retry_tasks, tasks
from tests.servers.worker import Worker

WAIT_S = 120.0


class Request:
    """As much of a request as a result tells of."""

    _children = None
    children: tuple[Any, ...] = ()
    group = None
    parent_id = None
    chord = None
    chain = None
    errbacks = None
    ignore_result = False


@pytest.fixture
def app(valkey: EmbeddedServer) -> Iterator[Celery[Any]]:
    with Celery("results", broker=valkey.broker_url, backend=valkey.result_url, set_as_current=False) as app:
        yield app
        app.backend.client.close()  # type: ignore[attr-defined]


@pytest.fixture
def store(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url.replace("db=0", "db=1")) as connection:
        yield connection


def writer_of(app: Celery[Any]) -> ResultWriter:
    writer = ResultWriter.for_backend(app.backend)
    assert writer is not None
    return writer


def keep(writer: ResultWriter, task_id: str, result: Any, request: Any, *failure: str) -> None:
    async def main() -> None:
        await writer.store(task_id, result, request, *failure)
        await writer.close()

    asyncio.run(main())


def keep_provisional(writer: ResultWriter, *states: ProvisionalState) -> None:
    async def main() -> None:
        await asyncio.gather(*map(writer.replace, states))
        await writer.close()

    asyncio.run(main())


def retried(task_id: str, seen: bytes) -> ProvisionalState:
    return ProvisionalState(
        task_id=task_id,
        state="RETRY",
        result=KeyError("again"),
        traceback="some text",
        request=Request(),
        started_at=datetime.now(UTC),
        seen=seen,
    )


PLAIN = (1, -7, 2**70, True, False, None, "text", 'a "quoted" line\n\té \U0001f600')
OTHERS = (2.5, [1, {"a": 2.5}], b"bytes", {"when": datetime(2024, 1, 2, tzinfo=UTC)})


@pytest.mark.parametrize("of_a_group", [True, False])
def test_the_document_is_the_stock_one(app: Celery[Any], store: redis.Redis, of_a_group: bool) -> None:
    """The same keys in the same order, the same values but for the time, the same expiry."""
    writer = writer_of(app)
    request = Request()
    if of_a_group:
        request.group, request.parent_id = "the-group", "the-parent"  # type: ignore[assignment]
    for result in (*PLAIN, *OTHERS):
        keep(writer, "ours", result, request)
        app.backend.mark_as_done("stock", result, request)
        ours, stock = (json.loads(store.get(f"celery-task-meta-{name}") or b"") for name in ("ours", "stock"))
        assert list(ours) == list(stock)
        dates = [document.pop("date_done") for document in (ours, stock)]
        assert dates[0][-6:] == dates[1][-6:] == "+00:00"
        assert ours | {"task_id": "stock"} == stock
        assert abs(store.ttl("celery-task-meta-ours") - store.ttl("celery-task-meta-stock")) <= 60
        assert app.AsyncResult("ours").get(timeout=WAIT_S) == app.AsyncResult("stock").get(timeout=WAIT_S)
        store.flushdb()
        app.backend._cache.clear()  # type: ignore[attr-defined]


def test_a_success_stays_and_any_other_state_does_not(app: Celery[Any], store: redis.Redis) -> None:
    writer = writer_of(app)
    app.backend.store_result("started", {"pid": 1}, "STARTED")
    app.backend.store_result("failed", ValueError("no"), "FAILURE")
    keep(writer, "done", "first", Request())
    heard = store.pubsub()
    heard.subscribe("celery-task-meta-done", "celery-task-meta-started")
    for task_id in ("started", "failed", "done"):
        keep(writer, task_id, "second", Request())
    read = {name: json.loads(store.get(f"celery-task-meta-{name}") or b"") for name in ("started", "failed", "done")}
    assert [read[name]["result"] for name in read] == ["second", "second", "first"]
    assert [read[name]["status"] for name in read] == ["SUCCESS"] * 3
    messages = [
        message for _ in range(6) if (message := heard.get_message(timeout=0.2)) and message["type"] == "message"
    ]
    assert [message["channel"] for message in messages] == [b"celery-task-meta-started"]
    heard.close()


class OwnError(Exception):
    """Of a module that a client may not have."""


FAILURES = (ValueError("no", 2), OwnError("\té \U0001f600"), KeyError(object), TimeoutError(), OSError(2, "not there"))


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("of_a_group", [True, False])
def test_the_document_of_a_failure_is_the_stock_one(
    app: Celery[Any], store: redis.Redis, of_a_group: bool, extended: bool
) -> None:
    app.conf.result_extended = extended
    writer = writer_of(app)
    request = Request()
    if of_a_group:
        request.group, request.parent_id = "the-group", "the-parent"  # type: ignore[assignment]
    for number, failure in enumerate(FAILURES):
        names = (f"ours{number}", f"stock{number}")
        keep(writer, names[0], failure, request, "FAILURE", 'File "x.py"\n  a line')
        app.backend.mark_as_failure(names[1], failure, 'File "x.py"\n  a line', request)
        ours, stock = (json.loads(store.get(f"celery-task-meta-{name}") or b"") for name in names)
        assert list(ours) == list(stock)
        assert [document.pop("task_id") for document in (ours, stock)] == list(names)
        assert {type(document.pop("date_done")) for document in (ours, stock)} == {str}
        assert ours == stock
        assert abs(store.ttl(f"celery-task-meta-{names[0]}") - store.ttl(f"celery-task-meta-{names[1]}")) <= 60


def test_a_failure_replaces_all_but_a_success(app: Celery[Any], store: redis.Redis) -> None:
    writer = writer_of(app)
    app.backend.store_result("retried", KeyError("again"), "RETRY")
    app.backend.store_result("failed", KeyError("before"), "FAILURE")
    keep(writer, "done", "first", Request())
    for task_id in ("retried", "failed", "done"):
        keep(writer, task_id, ValueError("last"), Request(), "FAILURE", "text")
    read = [json.loads(store.get(f"celery-task-meta-{name}") or b"") for name in ("retried", "failed", "done")]
    assert [document["status"] for document in read] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert [document["result"] for document in read[:2]] == [
        {"exc_type": "ValueError", "exc_message": ["last"], "exc_module": "builtins"}
    ] * 2


def test_the_state_of_a_retry_replaces_what_was_there_before_and_nothing_else(
    app: Celery[Any], store: redis.Redis
) -> None:
    writer = writer_of(app)
    app.backend.store_result("started", {"pid": 1}, "STARTED")
    seen = store.get("celery-task-meta-started")
    keep(writer, "done", "next attempt", Request())
    app.backend.store_result("overtaken", {"pid": 2}, "STARTED")
    keep_provisional(
        writer, retried("new", b""), retried("started", seen or b""), retried("done", b""), retried("overtaken", b"")
    )
    app.backend.mark_as_retry("stock", KeyError("again"), "some text", Request())
    read = {
        name: json.loads(store.get(f"celery-task-meta-{name}") or b"")
        for name in ("stock", "new", "started", "done", "overtaken")
    }
    assert {name: document["status"] for name, document in read.items()} == {
        "stock": "RETRY",
        "new": "RETRY",
        "started": "RETRY",
        "done": "SUCCESS",
        "overtaken": "STARTED",
    }
    assert read["new"] == read["stock"] | {"task_id": "new"}
    assert read["started"] == read["stock"] | {"task_id": "started"}
    assert abs(store.ttl("celery-task-meta-new") - store.ttl("celery-task-meta-stock")) <= 60


def test_another_serializer(app: Celery[Any], store: redis.Redis) -> None:
    app.conf.update(result_serializer="pickle", accept_content=["json", "pickle"], result_expires=None)
    writer = writer_of(app)
    keep(writer, "pickled", {1, 2}, Request())
    document = pickle.loads(store.get("celery-task-meta-pickled") or b"")
    assert document["result"] == {1, 2}
    assert store.ttl("celery-task-meta-pickled") == -1
    keep(writer, "pickled", {3}, Request())
    assert app.AsyncResult("pickled").get(timeout=WAIT_S) == {1, 2}


def test_a_backend_of_ones_own_is_left_alone(app: Celery[Any]) -> None:
    class Own(RedisBackend):
        pass

    assert ResultWriter.for_backend(Own(app=app)) is None
    assert ResultWriter.for_backend(Celery("none", set_as_current=False).backend) is None


@pytest.mark.parametrize("fast", ["1", "0"])
def test_what_follows_a_result(worker: Callable[..., Worker], client: Celery[Any], fast: str) -> None:
    """Chords of tasks and of groups, groups, and results by the hundred."""
    env = {"ASYNCWORKER_FAST_RESULTS": fast, "ASYNCWORKER_FAST_BROKER": fast}
    worker(tasks.__name__, "-c", "50", env=env)
    add, total = client.tasks["t.add"], client.tasks["t.total"]
    counted = chord([add.s(number, 1) for number in range(100)], total.s(), app=client)()
    together = group([add.s(number, 1) for number in range(100)], app=client)()
    nested = chord([group([add.s(1, 1), add.s(2, 2)]), add.s(3, 3)], total.s(), app=client)()
    assert counted.get(timeout=WAIT_S) == sum(range(1, 101))
    assert together.get(timeout=WAIT_S) == list(range(1, 101))
    assert nested.get(timeout=WAIT_S) == 12


@pytest.mark.parametrize("name", ["t.slow_to_retry", "t.slow_to_retry_on_a_thread"])
def test_the_state_of_a_retry_does_not_hide_the_result_of_the_next_attempt(
    worker: Callable[..., Worker], client: Celery[Any], store: redis.Redis, name: str
) -> None:
    node = worker(slow_retry_tasks.__name__, "-c", "5")
    result = client.tasks[name].delay()
    assert result.get(timeout=WAIT_S) == 1
    assert node.stop() == 0  # both attempts have ended
    assert json.loads(store.get(f"celery-task-meta-{result.id}") or b"")["status"] == "SUCCESS"


@pytest.mark.parametrize("name", ["late.again", "late.again_sync"])
def test_a_retry_is_stored_before_the_next_attempt_is_sent_where_the_backend_cannot_compare(
    worker: Callable[..., Worker], client: Celery[Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / "results").mkdir()
    url = f"tests.integration.late_backend:LateBackend+file://{tmp_path}/results"
    node = worker(slow_retry_tasks.__name__, "-c", "5", env={"ASYNCWORKER_RESULT_URL": url})
    task_id = client.tasks[name].delay().id
    with Celery("results", backend=url, set_as_current=False) as reader:
        with pytest.raises(ValueError, match="once more"):
            reader.AsyncResult(task_id).get(timeout=WAIT_S)
        assert node.stop() == 0  # both attempts have ended
        assert reader.AsyncResult(task_id).state == "FAILURE"


def test_extended_results_are_the_stock_ones(
    worker: Callable[..., Worker], client: Celery[Any], store: redis.Redis
) -> None:
    """The name, arguments, worker, retries and queue of a task, in its own result and in that of its group."""
    told = []
    for fast in ("1", "0"):
        env = {"ASYNCWORKER_FAST_RESULTS": fast, "ASYNCWORKER_FAST_BROKER": fast}
        options = {"app": "tests.integration.extended_app", "name": f"worker{fast}@test"}
        node = worker(tasks.__name__, "-c", "5", env=env, **options)
        retry = client.tasks["t.retry"].apply_async(task_id=f"retried{fast}")
        together: Any = group([client.tasks["t.add"].s(1, y=2).set(task_id=f"added{fast}")]).apply_async(
            task_id=f"group{fast}"
        )
        assert (retry.get(timeout=WAIT_S), together.get(timeout=WAIT_S)) == (2, [3])
        documents = [json.loads(store.get(f"celery-task-meta-{name}{fast}") or b"") for name in ("retried", "added")]
        assert [document.pop("worker") for document in documents] == [f"worker{fast}@test"] * 2
        for document in documents:
            document.pop("date_done")
            document["task_id"] = document["task_id"][:-1]
        assert documents[0].pop("parent_id") == f"retried{fast}"
        assert documents[1].pop("group_id") == f"group{fast}"
        told.append(documents)
        assert node.stop() == 0
    assert told[0] == told[1]
    retried, added = told[0]
    assert (retried["name"], retried["retries"], retried["queue"]) == ("t.retry", 2, "celery")
    assert (added["name"], added["args"], added["kwargs"]) == ("t.add", [1], {"y": 2})


def test_an_acl_without_scripts_falls_back_and_says_so_once(
    worker: Callable[..., Worker], client: Celery[Any], store: redis.Redis, valkey: EmbeddedServer
) -> None:
    allowed = {"keys": ["*"], "channels": ["*"], "commands": ["+@all", "-eval", "-evalsha", "-script"]}
    store.acl_setuser("plain", enabled=True, passwords=["+word"], **allowed)
    url = valkey.result_url.replace("redis+socket://", "redis+socket://plain:word@")
    try:
        node = worker(tasks.__name__, "-c", "5", env={"ASYNCWORKER_RESULT_URL": url, "ASYNCWORKER_FAST_RESULTS": "1"})
        sent = [client.tasks["t.add"].delay(number, 2) for number in range(20)]
        assert [result.get(timeout=WAIT_S) for result in sent] == list(range(2, 22))
        assert node.log().count("Redis refuses results in batches") == 1
    finally:
        store.acl_deluser("plain")
