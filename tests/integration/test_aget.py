"""Waiting for results in a coroutine: what ``get`` gives, for any number at once, and no notice that can be missed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, group
from celery.exceptions import TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult, result_from_tuple

from asyncworker import AsyncTask, publish_many
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.tasks import task_result, watch_redis
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.worker import Worker

WAIT_S = 120.0


@pytest.fixture
def store(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url.replace("db=0", "db=1")) as connection:
        yield connection


def put(client: Celery[Any], store: redis.Redis, task_id: str, value: Any, state: str = "SUCCESS") -> None:
    """Store an outcome, and tell nobody."""
    backend: Any = client.backend
    meta = {"status": state, "result": value, "traceback": None, "children": [], "task_id": task_id}
    store.set(backend.get_key_for_task(task_id), backend.encode(meta))


def subscribers(store: redis.Redis, task_id: str) -> int:
    return int(store.pubsub_numsub(f"celery-task-meta-{task_id}")[0][1])


def subscriptions(store: redis.Redis) -> set[str]:
    """Return the ids of the connections that are subscribed to anything."""
    return {str(each["id"]) for each in store.client_list("pubsub")}


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not reached():
            await asyncio.sleep(0.01)


# -- as get ------------------------------------------------------------------------------------------------------------


@pytest.mark.promise("aget-shares-a-subscription")
def test_a_thousand_at_once_on_one_subscription_and_no_thread(
    worker: Callable[..., Worker], client: Celery[Any], store: redis.Redis
) -> None:
    worker(tasks.__name__, "-c", "100")

    async def main() -> tuple[list[Any], int, int]:
        add, gate = client.tasks["t.add"], client.AsyncResult("gate")
        results = await publish_many(add.s(number, 1) for number in range(1000))
        threads, before = threading.active_count(), subscriptions(store)
        waiting = [asyncio.create_task(result.aget(timeout=WAIT_S)) for result in (gate, *results)]
        values = await asyncio.gather(*waiting[1:])
        grown = threading.active_count() - threads, len(subscriptions(store) - before)
        await until(lambda: subscribers(store, "gate") == 1)
        put(client, store, "gate", "open")
        store.publish("celery-task-meta-gate", store.get("celery-task-meta-gate"))
        assert await waiting[0] == "open"
        await until(lambda: subscribers(store, "gate") == 0)
        return values, *grown

    values, threads, subscribed = asyncio.run(main())
    assert values == list(range(1, 1001))
    assert threads == 0
    assert subscribed == 1
    # Another loop of the same process has one of its own.
    store.delete("celery-task-meta-gate")
    assert asyncio.run(main()) == (values, 0, 1)


def test_what_a_task_raises_is_raised(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    worker(tasks.__name__, "-c", "10")

    async def main() -> None:
        result = await client.tasks["t.fail"].adelay("for a reason")
        with pytest.raises(KeyError, match="for a reason"):
            await result.aget(timeout=WAIT_S)
        returned = await result.aget(propagate=False)
        assert isinstance(returned, KeyError)
        assert result.state == "FAILURE"
        # Nothing is asked for again: get() has it, too, and does not block.
        with pytest.raises(KeyError, match="for a reason"):
            result.get(timeout=0.001)

    asyncio.run(main())


def test_no_outcome_in_time(client: Celery[Any], store: redis.Redis) -> None:
    async def main() -> None:
        result = client.AsyncResult("nobody")
        with pytest.raises(TimeoutError, match="timed out"):
            await result.aget(timeout=0.05)
        put(client, store, "nobody", None, "STARTED")
        with pytest.raises(TimeoutError):
            await result.aget(timeout=0.05)
        revoked = {"exc_type": "TaskRevokedError", "exc_message": ["now"], "exc_module": "celery.exceptions"}
        put(client, store, "nobody", revoked, "REVOKED")
        with pytest.raises(TaskRevokedError):
            await result.aget(timeout=WAIT_S)
        ignored = await client.tasks["t.add"].aapply_async((1, 2), ignore_result=True)
        assert await ignored.aget(timeout=WAIT_S) is None
        await until(lambda: subscribers(store, "nobody") == 0)

    asyncio.run(main())


def test_what_an_earlier_task_of_a_chain_raises_is_raised(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    worker(tasks.__name__, "-c", "10")
    fail, add = client.tasks["t.fail"], client.tasks["t.add"]

    async def main() -> None:
        assert await chain(add.s(1, 2), add.s(3), add.s(4)).apply_async().aget(timeout=WAIT_S) == 10
        result = chain(add.s(1, 2), fail.si("early"), add.s(3)).apply_async()
        with pytest.raises(KeyError, match="early"):
            await result.aget(timeout=WAIT_S)
        # A result that was sent elsewhere as a tuple is the same here.
        again: Any = result_from_tuple(result.as_tuple(), app=client)
        with pytest.raises(KeyError, match="early"):
            await again.aget(timeout=WAIT_S)

    asyncio.run(main())


def test_a_parent_that_fails_ends_the_waiting(client: Celery[Any], store: redis.Redis) -> None:
    async def main() -> None:
        first = client.AsyncResult("first")
        last = client.AsyncResult("last", parent=client.AsyncResult("second", parent=first))
        waiting = asyncio.create_task(last.aget(timeout=WAIT_S))
        await until(lambda: subscribers(store, "first") == 1)
        put(client, store, "first", {"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"}, "FAILURE")
        store.publish("celery-task-meta-first", store.get("celery-task-meta-first"))
        with pytest.raises(KeyError):
            await waiting
        with pytest.raises(TimeoutError):
            await last.aget(timeout=0.05, follow_parents=False)
        with pytest.raises(TimeoutError):
            await last.aget(timeout=0.05, propagate=False)

    asyncio.run(main())


def test_groups_in_order_with_groups_in_them(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    worker(tasks.__name__, "-c", "10")
    fail, add, total = client.tasks["t.fail"], client.tasks["t.add"], client.tasks["t.total"]

    async def main() -> None:
        header = group([add.s(0, 0), group([add.s(1, 0), add.s(2, 0)]), chain(add.s(1, 1), add.s(1))])
        result: Any = header.apply_async()
        assert await result.aget(timeout=WAIT_S) == [0, 1, 2, 3]
        nested = client.GroupResult("outer", [result, client.AsyncResult(result.results[0].id)])
        assert await nested.aget(timeout=WAIT_S) == [[0, 1, 2, 3], 0]
        mixed: Any = group([add.s(0, 1), fail.s("one of them")]).apply_async()
        with pytest.raises(KeyError, match="one of them"):
            await mixed.aget(timeout=WAIT_S)
        values = await mixed.aget(timeout=WAIT_S, propagate=False)
        assert (values[0], type(values[1])) == (1, KeyError)
        assert await client.GroupResult("empty", []).aget() == []
        assert await (group(add.s(n, n) for n in range(5)) | total.s()).apply_async().aget(timeout=WAIT_S) == 20

    asyncio.run(main())


def test_one_that_fails_ends_the_waiting_for_a_group(client: Celery[Any], store: redis.Redis) -> None:
    put(client, store, "bad", {"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"}, "FAILURE")

    async def main() -> None:
        result = client.GroupResult("g", [client.AsyncResult("never"), client.AsyncResult("bad")])
        with pytest.raises(KeyError):
            await result.aget(timeout=WAIT_S)
        with pytest.raises(TimeoutError):
            await result.aget(timeout=0.05, propagate=False)

    asyncio.run(main())


@pytest.mark.promise("aget-inside-a-task")
def test_a_task_may_await_others_on_its_own_worker(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    """With one place more than it takes itself; the others have it one after the other."""
    worker(tasks.__name__, "-c", "2")
    assert client.tasks["t.awaits_others"].delay(20).get(timeout=WAIT_S) == [2 * number for number in range(20)]


@pytest.mark.parametrize("backend", ["file", "db"])
def test_any_backend(backend: str, worker: Callable[..., Worker], valkey: EmbeddedServer, tmp_path: Path) -> None:
    """Asked for on a thread: one, for fifty that wait."""
    (tmp_path / "results").mkdir()
    url = {"file": f"file://{tmp_path}/results", "db": f"db+sqlite:///{tmp_path}/results.db"}[backend]
    worker(tasks.__name__, "-c", "20", env={"ASYNCWORKER_RESULT_URL": url})

    async def main(app: Celery[Any]) -> None:
        results = await publish_many(app.tasks["t.add"].s(number, 1) for number in range(50))
        failing = await app.tasks["t.fail"].adelay("there")
        assert await asyncio.gather(*[result.aget(timeout=WAIT_S) for result in results]) == list(range(1, 51))
        with pytest.raises(KeyError, match="there"):
            await failing.aget(timeout=WAIT_S)
        with pytest.raises(TimeoutError):
            await app.AsyncResult("nobody").aget(timeout=0.05)

    options: dict[str, Any] = {"task_cls": AsyncTask, "set_as_current": False}
    app: Celery[Any] = Celery("other", broker=valkey.broker_url, backend=url, **options)
    with app:
        task_result.use_results(app)
        assert "t.add" in app.tasks  # Celery reads its configuration: not on a loop
        asyncio.run(main(app))


def test_results_that_nobody_can_wait_for(valkey: EmbeddedServer) -> None:
    async def main(app: Celery[Any]) -> None:
        with pytest.raises(NotImplementedError):
            await app.AsyncResult("any").aget(timeout=WAIT_S)

    for url in ("rpc://", "disabled://"):
        with Celery("none", broker=valkey.broker_url, backend=url, set_as_current=False) as app:
            task_result.use_results(app)
            asyncio.run(main(app))


def test_eager_tasks(valkey: EmbeddedServer) -> None:
    with client_app(valkey, task_always_eager=True) as app:
        # In an app of its own: a task in the module's is not eager.
        @app.task
        async def double(number: int) -> int:
            if number < 0:
                raise ValueError("negative")
            return 2 * number

        async def main() -> None:
            assert await (await double.adelay(2)).aget(timeout=WAIT_S) == 4
            with pytest.raises(ValueError, match="negative"):
                await (await double.adelay(-1)).aget()
            assert isinstance(await (await double.adelay(-1)).aget(propagate=False), ValueError)

        asyncio.run(main())


def test_the_classes_are_celerys(client: Celery[Any]) -> None:
    """What is sent, made by hand, and restored."""
    add = client.tasks["t.add"]
    results = [add.delay(1, 2), client.AsyncResult("id"), add.AsyncResult("id"), add.s(1, 2).freeze()]
    assert all(isinstance(result, AsyncResult) and hasattr(result, "aget") for result in results)
    assert repr(results[1]) == "<AsyncResult: id>"
    saved: Any = group(add.s(1, 2), add.s(3, 4)).apply_async()
    saved.save()
    restored = client.GroupResult.restore(saved.id)
    assert isinstance(restored, GroupResult) and hasattr(restored, "aget")
    assert [each.id for each in restored] == [each.id for each in saved]


def test_results_of_an_apps_own_stay(valkey: EmbeddedServer) -> None:
    class Mine(AsyncResult):  # type: ignore[type-arg]
        pass

    class App(Celery):  # type: ignore[type-arg]
        @property
        def AsyncResult(self) -> Any:
            return self.subclass_with_self(Mine)

    with client_app(valkey) as usual, App("own", backend=valkey.result_url, set_as_current=False) as app:
        task_result.use_results(app)
        assert isinstance(app.AsyncResult("id"), Mine)
        result = usual.AsyncResult("id", parent=usual.AsyncResult("before"))
        task_result.use_results(usual)
        assert type(result) is usual.AsyncResult
        assert result.as_tuple() == (("id", (("before", None), None)), None)


# -- notices that do not come ------------------------------------------------------------------------------------------


@pytest.mark.promise("lost-notification-costs-seconds")
def test_an_outcome_of_which_no_notice_came_is_found(
    client: Celery[Any], store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_redis, "LOOK_AGAIN_S", 0.05)

    async def main() -> None:
        waiting = asyncio.create_task(client.AsyncResult("silent").aget(timeout=WAIT_S))
        await until(lambda: subscribers(store, "silent") == 1)
        put(client, store, "silent", "there")
        assert await waiting == "there"

    asyncio.run(main())


@pytest.mark.promise("lost-notification-costs-seconds")
def test_get_finds_it_as_well(client: Celery[Any], store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_result, "LOOK_AGAIN_S", 0.2)
    got: list[Any] = []
    # Made where they are waited for: Celery has a backend for each thread.
    results: dict[str, Callable[[], Any]] = {
        "silent": lambda: client.AsyncResult("silent"),
        "silent too": lambda: client.GroupResult("g", [client.AsyncResult("silent too")]),
    }
    for number, (task_id, make) in enumerate(results.items()):
        thread = threading.Thread(target=lambda make=make: got.append(make().get(timeout=WAIT_S)))
        thread.start()
        asyncio.run(until(lambda task_id=task_id: subscribers(store, task_id) == 1))  # type: ignore[misc]
        put(client, store, task_id, number)
        thread.join(WAIT_S)
    assert got == [0, [1]]


def test_a_connection_that_is_cut_is_made_again(client: Celery[Any], store: redis.Redis) -> None:
    async def main() -> None:
        waiting = asyncio.create_task(client.AsyncResult("cut").aget(timeout=WAIT_S))
        await until(lambda: subscribers(store, "cut") == 1)
        put(client, store, "cut", "there")
        # It is looked at when the next connection stands, and not before the seconds that no test waits for.
        store.client_kill_filter(_type="pubsub", skipme=True)
        assert await waiting == "there"

    asyncio.run(main())


def test_who_is_cancelled_waits_no_more(client: Celery[Any], store: redis.Redis) -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(client.AsyncResult("same").aget()) for _ in range(2)]
        await until(lambda: subscribers(store, "same") == 1)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        put(client, store, "same", 1)
        store.publish("celery-task-meta-same", store.get("celery-task-meta-same"))
        assert await waiting[1] == 1

    asyncio.run(main())
