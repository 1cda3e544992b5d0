"""What a user writes, and a type checker accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, assert_type

from celery import chain, shared_task
from celery.result import AsyncResult

from asyncworker import AsyncTask, IterateResult, app, previous_result, resource, use


@resource
async def shelf() -> AsyncIterator[dict[str, int]]:
    yield {}


@app.task
async def fetch(host: str, path: str, retry: bool = True) -> int:
    return len(host + path)


@app.task(name="shop.double", time_limit=60)
def double(number: int) -> int:
    return 2 * number


@app.task(bind=True, max_retries=3)
async def bound(self: AsyncTask, number: int) -> str:
    return f"{self.name} {number}"


@app.task
async def listed(host: str) -> AsyncIterator[str]:
    yield host


@app.task
async def count(sku: str, client: Annotated[dict[str, int], shelf] = shelf.filled) -> int:
    shared_shelf = await use(shelf)
    return client[sku] + len(shared_shelf)


@app.task(base=AsyncTask)
async def of_base(host: str) -> str:
    return host


class Audited(AsyncTask[..., str]):
    abstract = True


@app.task(base=Audited, bind=True)
def audited(self: Audited, host: str) -> str:
    return host


@app.task(limits=["sftp"], rate_limit="3/s")
async def limited(host: str) -> str:
    return host


@app.task
async def anything(**what: Any) -> None: ...


@shared_task
def shared(number: int) -> int:
    return number


async def call() -> None:
    assert_type(await fetch("x", path="/a"), int)
    assert_type(double(2), int)
    assert_type(await bound(number=2), str)
    assert_type([path async for path in listed("x")], list[str])
    await count("A-17")
    await of_base("x")


async def send() -> None:
    assert_type(fetch.delay("x", path="/a"), AsyncResult[int])
    assert_type(double.delay(2).get(), int)
    assert_type(bound.delay(number=2).get(), str)
    assert_type(listed.delay("x").get(), list[str])
    (await fetch.adelay("x", "/a", retry=False)).get()
    count.delay("A-17")
    await count.adelay(sku="A-17")
    anything.delay(a=1, b="x")
    shared.delay(2)
    assert_type(audited, Audited)
    assert_type(limited.delay(host="x").get(), str)
    fetch.apply_async(("x",), {"path": "/a"}, countdown=1)
    chain(listed.s("x"), fetch.s("x"), double.si(2)).delay()


async def fan_out() -> None:
    run = fetch.partial(host="x").options(concurrency=8, retries=3, key="path")
    result = run.iterate(path=["/a", "/b"]).delay()
    assert_type(result, IterateResult)
    assert_type(result.results(), list[Any])
    result.progress().done + 1
    result.errors()[0].attempt + 1
    sent = await run.iterate(path=listed.s("x")).adelay()
    assert_type(sent, IterateResult)
    assert_type(await sent.aresults(), list[Any])
    assert_type(await run.iterate(mode="zip", path=["/a"]).run(), list[Any])
    (await run.iterate(path=["/a"]).run(collect=True)).raise_for_failures()
    double.iterate(number=range(3)).delay().cancel()
    fetch.iterate_kwargs([{"host": "x", "path": "/a"}]).delay().resume()
    chain(listed.s("x"), run.iterate(path=previous_result)).delay()
    double.expand(number=[1, 2]).delay()
