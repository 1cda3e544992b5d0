"""A fan-out whose arguments its task does not take is refused where it is built or sent, before any item runs."""

from __future__ import annotations

import asyncio
import functools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature
from pydantic import BaseModel

import asyncworker
from asyncworker import IterateOptions, limit, previous_result, resource
from asyncworker.errors import ArgumentError, SettingsError, SourceError
from asyncworker.worker.tracing import adopt


class Order(BaseModel):
    number: int


@resource
async def shelf() -> Any:
    yield "shelf"


def make_app(folder: Path) -> Celery[Any]:
    app: Celery[Any] = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.asyncworker_state_dir = str(folder)
    asyncworker.install(app)
    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery[Any]]:
    app = make_app(tmp_path)
    yield app
    app.close()


@pytest.fixture
def calls() -> list[Any]:
    return []


def declare(app: Any, calls: list[Any], kind: str, **options: Any) -> Any:
    """Declare `shop.fetch(host, path, retry=True)` in one of the ways there are."""

    async def fetch(host: str, path: str, retry: bool = True) -> str:
        calls.append((host, path, retry))
        return f"{host}{path}"

    def fetch_sync(host: str, path: str, retry: bool = True) -> str:
        calls.append((host, path, retry))
        return f"{host}{path}"

    async def fetch_bound(self: Any, host: str, path: str, retry: bool = True) -> str:
        return await fetch(host, path, retry)

    def fetch_sync_bound(self: Any, host: str, path: str, retry: bool = True) -> str:
        return fetch_sync(host, path, retry)

    async def fetch_with_resource(host: str, path: str, retry: bool = True, *, client: Annotated[str, shelf]) -> str:
        return await fetch(host, path, retry)

    async def fetch_with_default(
        host: str, path: str, retry: bool = True, client: Annotated[str, shelf] = shelf.filled
    ) -> str:
        assert client == "shelf"
        return await fetch(host, path, retry)

    async def fetch_keyword_only(*, host: str, path: str, retry: bool = True) -> str:
        return await fetch(host, path, retry)

    async def fetch_more_by_position(host: str, path: str, retry: bool = True, *more: str) -> str:
        return await fetch(host, path, retry)

    class Fetch(app.Task):  # type: ignore[misc,name-defined]
        name = "shop.fetch"

        async def run(self, host: str, path: str, retry: bool = True, *, client: Annotated[str, shelf]) -> str:
            return await fetch(host, path, retry)

    ways: dict[str, Any] = {
        "async": (fetch, {}),
        "sync": (fetch_sync, {}),
        "bound": (fetch_bound, {"bind": True}),
        "sync and bound": (fetch_sync_bound, {"bind": True}),
        "resource": (fetch_with_resource, {}),
        "resource with a default": (fetch_with_default, {}),
        "keyword-only": (fetch_keyword_only, {}),
        "more by position": (fetch_more_by_position, {}),
        "pydantic": (fetch, {"pydantic": True}),
        "pydantic, sync and bound": (fetch_sync_bound, {"pydantic": True, "bind": True}),
        "pydantic and a resource": (fetch_with_resource, {"pydantic": True}),
        "autoretry": (fetch, {"autoretry_for": (OSError,)}),
        "autoretry, sync and bound": (fetch_sync_bound, {"autoretry_for": (OSError,), "bind": True}),
    }
    if kind == "class":
        return app.register_task(Fetch())
    function, how = ways[kind]
    return app.task(function, name="shop.fetch", shared=False, **how, **options)


KINDS = [
    "async", "sync", "bound", "sync and bound", "resource", "resource with a default",
    "keyword-only", "more by position",
    "pydantic", "pydantic, sync and bound", "pydantic and a resource", "autoretry", "autoretry, sync and bound",
    "class",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adopted", [False, True], ids=["in a client", "in a worker"])
@pytest.mark.promise("wrong-arguments-are-refused-before-they-are-sent")
async def test_arguments_are_compared_with_those_that_the_task_takes(
    app: Celery[Any], calls: list[Any], kind: str, adopted: bool
) -> None:
    fetch = declare(app, calls, kind)
    if adopted:
        await asyncio.to_thread(adopt, fetch)
    run = fetch.partial().options(retries=0 if "autoretry" not in kind else 3)
    for wrong, message in {
        lambda: fetch.partial(hots="x").iterate(
            path=["/a"]
        ): "shop.fetch has no parameter 'hots'; it has host, path, retry",
        lambda: run.partial(host="x").iterate(
            paht=["/a"]
        ): "shop.fetch has no parameter 'paht'; it has host, path, retry",
        lambda: run.partial(host="x").iterate(path=[], a=[], b=[]): "shop.fetch has no parameters 'a', 'b'; it has",
        lambda: run.iterate(path=["/a"]): "shop.fetch needs 'host'; given: path",
        lambda: run.partial(host="x").iterate(retry=[True, False]): "shop.fetch needs 'path'; given: host, retry",
        lambda: run.iterate(retry=[]): "shop.fetch needs 'host', 'path'; given: retry",
        lambda: run.partial(host="x").iterate(host=["y"], path=["/a"]): "shop.fetch: host is both fixed and iterated",
        lambda: run.partial(self="x").iterate(host=["y"], path=["/a"]): "shop.fetch has no parameter 'self'",
        lambda: run.partial(client="x").iterate(host=["y"], path=["/a"]): "shop.fetch has no parameter 'client'",
        lambda: run.partial(hots="x").iterate_kwargs([{"path": "/a"}]): "shop.fetch has no parameter 'hots'",
        lambda: run.partial(host="x").expand(paht=["/a"]): "shop.fetch has no parameter 'paht'",
        lambda: run.partial(host="x").expand(host=["y"], path=["/a"]): "shop.fetch: host is both fixed and iterated",
    }.items():
        with pytest.raises(SourceError) as refused:
            wrong()
        assert str(refused.value).startswith(message)
        assert isinstance(refused.value, TypeError)
    assert calls == []
    await run.partial(host="x").iterate(path=["/a", "/b"]).run()
    await run.partial(host="x", retry=False).iterate(path=[]).run()
    await run.partial(host="x").iterate_kwargs([{"path": "/c"}, {"path": "/d", "retry": False}]).run()
    # Items of a sync task run on threads, in any order.
    assert sorted(calls) == [("x", "/a", True), ("x", "/b", True), ("x", "/c", True), ("x", "/d", False)]


def test_the_error_carries_what_it_is_about(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "async")
    with pytest.raises(ArgumentError) as refused:
        fetch.partial(hots="x", host="y")
    error = refused.value
    again = ArgumentError(*json.loads(json.dumps(error.args)))
    for each in (error, again, pickle.loads(pickle.dumps(error))):
        assert str(each) == "shop.fetch has no parameter 'hots'; it has host, path, retry"
        assert (each.task, each.parameters) == ("shop.fetch", ("host", "path", "retry"))
        assert (each.unknown, each.missing) == (("hots",), ())
    with pytest.raises(ArgumentError) as refused:
        fetch.iterate(path=["/a"])
    assert (refused.value.unknown, refused.value.missing) == ((), ("host",))


async def test_arguments_by_position_only_cannot_be_given_to_an_item(app: Celery[Any]) -> None:
    @app.task(name="shop.needs")
    async def needs(host: str, /, path: str) -> str:
        return path

    @app.task(name="shop.may")
    async def may(host: str = "x", /, path: str = "") -> str:
        return host + path

    @app.task(name="shop.also")
    async def also(host: str = "x", /, **more: str) -> str:
        return host + more["host"]

    with pytest.raises(SourceError, match=r"shop\.needs takes 'host' by position only"):
        needs.iterate(path=["/a"])
    with pytest.raises(SourceError, match=r"shop\.may has no parameter 'host'; it has path.*by position only"):
        may.partial(host="y").iterate(path=["/a"])
    assert await may.iterate(path=["/a"]).run() == ["x/a"]
    assert await also.iterate(host=["y"]).run() == ["xy"]


async def test_a_task_that_takes_anything_is_given_anything(app: Celery[Any]) -> None:
    def through(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, host="injected", **kwargs)

        return wrapper

    @app.task(name="shop.anything")
    async def anything(host: str, **more: Any) -> Any:
        return {"host": host, **more}

    @app.task(name="shop.injected")
    @through
    async def injected(host: str, path: str) -> Any:
        return host + path

    assert await anything.partial(host="x").iterate(hots=["y"]).run() == [{"host": "x", "hots": "y"}]
    with pytest.raises(SourceError, match=r"shop\.anything needs 'host'; given: hots"):
        anything.iterate(hots=["y"])
    # What its decorator gives it is not asked of the caller.
    assert await injected.iterate(path=["/a"]).run() == ["injected/a"]


@pytest.mark.promise("typing-false-turns-the-check-off")
async def test_typing_false_switches_the_check_off(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "async", typing=False)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hots'"):
        await fetch.partial(hots="x").iterate(path=["/a"]).run()
    with pytest.raises(SourceError, match="host is both fixed and iterated"):
        fetch.partial(host="x").iterate(host=["y"])
    loose: Celery[Any] = Celery("loose", broker="memory://", set_as_current=False, strict_typing=False)
    asyncworker.install(loose)
    declare(loose, calls, "async").partial(hots="x").iterate(path=["/a"])
    loose.close()


async def test_models_of_pydantic_are_arguments_as_others(app: Celery[Any]) -> None:
    @app.task(name="shop.ship", pydantic=True)
    async def ship(order: Order, to: str = "") -> int:
        return order.number

    with pytest.raises(SourceError, match=r"shop\.ship has no parameter 'oder'; it has order, to"):
        ship.iterate(oder=[{"number": 1}])
    with pytest.raises(SourceError, match=r"shop\.ship needs 'order'; given: to"):
        ship.iterate(to=["x"])


def test_a_resource_is_not_given_by_the_caller(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "resource")
    with pytest.raises(SourceError, match=r"it has host, path, retry\. 'client': filled in by the worker"):
        fetch.partial(client="x")


@pytest.mark.parametrize("wrong", ["partial", "iterate", "expand"])
def test_an_option_that_is_given_as_an_argument_is_named(app: Celery[Any], calls: list[Any], wrong: str) -> None:
    fetch = declare(app, calls, "async")
    with pytest.raises(SourceError, match=r"has no parameter 'concurrency'; .*\.options\(concurrency=\.\.\.\)"):
        getattr(fetch, wrong)(concurrency=3)
    for name in ("retrys", "concurency", "batch"):
        with pytest.raises(
            SettingsError, match=rf"^{name}: no such option of iterate; known: backoff_max_s, .*retries"
        ):
            fetch.partial().options(**{name: 3})
        with pytest.raises(SourceError, match=rf"has no parameter '{name}'"):
            fetch.partial(host="x").iterate(path=["/a"], **{name: 3})


def test_keys_and_limits_by_arguments_that_no_item_has(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "async").partial(host="x")
    with pytest.raises(SourceError, match="key is 'paht': the source has path"):
        fetch.options(key="paht").iterate(path=["/a"])
    with pytest.raises(SourceError, match="key is 'host': the source has path"):
        fetch.options(key="host").iterate(path=["/a"])
    with pytest.raises(SourceError, match=r"key is 'paht': shop\.fetch has no parameter 'paht'; it has host"):
        fetch.options(key="paht").iterate_kwargs([{"path": "/a"}])
    with pytest.raises(SourceError, match="host is both fixed and the key of the items"):
        fetch.options(key="host").iterate_kwargs([{"path": "/a"}])
    by = fetch.options(limits=[limit("sftp", by="hots")])
    with pytest.raises(SettingsError, match=r"by='hots'.*no such argument by name; has host, path"):
        by.iterate(path=["/a"])
    with pytest.raises(SettingsError, match=r"by='hots'"):
        by.iterate_kwargs([{"path": "/a"}])
    fetch.options(key="path", limits=[limit("sftp", by="host"), limit("paths", by="path")]).iterate(path=["/a"])
    fetch.options(key="path", limits=[limit("sftp", by="host")]).iterate_kwargs([{"path": "/a"}])


@pytest.mark.promise("wrong-row-is-not-tried-again")
async def test_a_row_that_the_task_does_not_take_fails_its_item_at_the_first_attempt(
    app: Celery[Any], calls: list[Any]
) -> None:
    fetch = declare(app, calls, "async").partial(host="x").options(retries=3, backoff_s=0)
    rows = [{"path": "/a"}, {"paht": "/b"}, {"path": "/c"}, {}, {"path": "/d", "host": "y"}, {"path": "/e"}]
    outcome = await fetch.iterate_kwargs(rows).run(collect=True)
    assert [path for _, path, _ in calls] == ["/a", "/c", "/e"]
    assert [failure.attempt for failure in outcome.failures] == [1, 1, 1]
    assert [str(each) for each in outcome.exceptions] == [
        "shop.fetch has no parameter 'paht'; it has host, path, retry",
        "shop.fetch needs 'path'; given: host",
        "shop.fetch: host is both fixed and in the row",
    ]


async def test_a_source_task_is_compared_with_its_arguments(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "async").partial(host="x")

    @app.task(name="shop.listed")
    async def listed(host: str, folder: str = "/") -> Any:
        yield folder

    @app.task(name="shop.first")
    async def first(host: str, /, folder: str) -> Any:
        yield folder

    for source, message in [
        (listed.s("x", hots="y"), "shop.listed has no parameter 'hots'; it has host, folder"),
        (listed.s(), "shop.listed needs 'host'; given: nothing"),
        (listed.s(folder="/a"), "shop.listed needs 'host'; given: folder"),
        (listed.s("x", "/a", "b"), "shop.listed cannot be called so: too many positional arguments"),
        (listed.s("x", host="y"), "shop.listed cannot be called so: multiple values for argument 'host'"),
        (first.s("x"), "shop.first cannot be called so: missing a required argument: 'folder'"),
    ]:
        with pytest.raises(ArgumentError) as refused:
            fetch.iterate(path=source)
        assert str(refused.value).startswith(message)
    assert await fetch.iterate(path=listed.s("x", folder="/a")).run() == ["x/a"]
    assert await fetch.iterate(path=first.s("x", folder="/a")).run() == ["x/a"]
    with pytest.raises(ArgumentError, match=r"shop\.listed needs 'host'"):
        await fetch.iterate(path=app.signature("shop.listed")).run()


# -- signatures that have travelled ------------------------------------------------------------------------------------


def travelled(signature: Any, app: Celery[Any]) -> Any:
    return Signature.from_dict(json.loads(json.dumps(signature)), app=app)


def test_signatures_that_were_copied_or_have_travelled_are_compared_when_they_are_sent(
    app: Celery[Any], calls: list[Any]
) -> None:
    run = declare(app, calls, "async").partial(host="x").options(retries=1)
    right = run.iterate(path=["/a"])
    wire = right.kwargs
    for change, error, message in [
        ({"partial": {"hots": "x"}}, SourceError, "has no parameter 'hots'"),
        ({"partial": {}}, SourceError, "needs 'host'; given: path"),
        ({"partial": {"host": "x", "path": "/"}}, SourceError, "path is both fixed and iterated"),
        ({"source": {"kind": "product", "columns": [{"name": "paht", "values": []}]}}, SourceError, "'paht'"),
        (
            {
                "source": {
                    "kind": "product",
                    "columns": [{"name": "path", "task": {"task": "shop.fetch", "args": [], "kwargs": {}}}],
                }
            },
            SourceError,
            "needs 'host', 'path'; given: nothing",
        ),
        ({"options": {"concurency": 1}}, SettingsError, "concurency: no such option of iterate"),
        ({"options": {"key": "paht"}}, SourceError, "key is 'paht'"),
    ]:
        changed = right.clone(kwargs=change)
        assert {**wire, **change} == dict(changed.kwargs)
        for signature in (changed, travelled(changed, app), changed.set(queue="other"), changed.clone()):
            for send in (signature.delay, signature.apply_async, group([signature]).apply_async):
                with pytest.raises(error, match=message):
                    send()
    assert calls == []


def test_a_right_fan_out_with_every_option_is_sent(app: Celery[Any], calls: list[Any]) -> None:
    options: dict[str, Any] = {
        "concurrency": 3,
        "retries": 2,
        "backoff_s": 0.5,
        "backoff_max_s": 5.0,
        "retry_on": [OSError],
        "fail_on": [ValueError],
        "on_error": "fail_fast",
        "max_failures": 3,
        "item_timeout_s": 3.0,
        "total_timeout_s": 60.0,
        "key": "path",
        "on_change": "restart",
        "limits": [limit("sftp", by="host"), limit("all", key="x", timeout_s=3), "named"],
        "results": "inline",
        "checkpoint_every_s": 1.0,
        "partitions": 2,
        "name": "nightly",
    }
    assert options.keys() == set(IterateOptions.__struct_fields__)
    run = declare(app, calls, "async").partial(host="x").options(**options)
    for signature in (run.iterate(path=["/a", "/b"]), run.iterate_kwargs([{"path": "/a"}, {"path": "/b"}])):
        for each in (signature, travelled(signature, app), signature.clone()):
            assert each.delay().id
            assert group([each]).apply_async().id


def test_what_the_task_before_gives_counts_as_given(app: Celery[Any], calls: list[Any]) -> None:
    fetch = declare(app, calls, "async")

    @app.task(name="shop.listed")
    async def listed() -> Any:
        return ["/a", "/b"]

    @app.task(name="shop.total")
    async def total(values: Any) -> int:
        return len(values)

    fan_out = fetch.partial(host="x").options(results="inline").iterate(path=previous_result)
    with pytest.raises(SourceError, match="needs 'host'"):
        fetch.iterate(path=previous_result)
    # Each message of `expand` gets it as its first argument.
    each = fetch.expand(path=["/a", "/b"])
    with pytest.raises(SourceError, match="no parameter 'paht'"):
        fetch.expand(paht=["/a", "/b"])
    app.conf.task_always_eager = True
    app.conf.task_store_eager_result = True
    assert chain(listed.s(), fan_out).apply().get() == ["x/a", "x/b"]
    assert chain(listed.s(), travelled(fan_out, app), total.s()).apply().get() == 2
    assert chain(total.si("x"), each).apply().get() == [f"{1}/a", f"{1}/b"]
    assert chord([fetch.partial(host="x").iterate(path=["/a"])], total.s()).apply().get() == 1
    calls.clear()
    # The task before has ended: it is the fan-out that fails.
    wrong = chain(listed.s(), travelled(fan_out, app).clone(kwargs={"partial": {"hots": "x"}})).apply()
    with pytest.raises(ArgumentError, match="has no parameter 'hots'"):
        wrong.get()
    assert calls == []


def test_a_client_that_knows_the_name_only_sends_what_the_worker_refuses(
    tmp_path: Path, app: Celery[Any], calls: list[Any]
) -> None:
    client = make_app(tmp_path)
    signature = travelled(declare(app, calls, "async").partial(host="x").iterate(path=["/a"]), client)
    wrong = signature.clone(kwargs={"partial": {"hots": "x"}})
    assert wrong.delay().id
    client.close()
    eager = travelled(wrong, app).apply()
    assert eager.state == "FAILURE"
    with pytest.raises(ArgumentError, match=r"shop\.fetch has no parameter 'hots'; it has host, path, retry"):
        eager.get()
    assert calls == []
