"""What a user gets wrong; each such line names what mypy says of it."""

from __future__ import annotations

from celery import shared_task

from asyncworker import AsyncTask, app


@app.task
async def fetch(host: str, path: str, retry: bool = True) -> int:
    return len(host + path)


@app.task(name="shop.double")
def double(number: int) -> int:
    return 2 * number


@app.task(bind=True)
async def bound(self: AsyncTask, number: int) -> str:
    return f"{self.name} {number}"


@shared_task
def shared(number: int) -> int:
    return number


async def call() -> None:
    await fetch(hots="x", path="/a")  # red: call-arg
    await fetch("x")  # red: call-arg
    await fetch("x", path=2)  # red: arg-type
    await double(2)  # red: misc
    await bound(nmber=2)  # red: call-arg


async def send() -> None:
    fetch.delay(hots="x", path="/a")  # red: call-arg
    fetch.delay("x")  # red: call-arg
    fetch.delay("x", 2)  # red: arg-type
    await fetch.adelay(hots="x", path="/a")  # red: call-arg
    await fetch.adelay("x")  # red: call-arg
    double.delay(nmber=2)  # red: call-arg
    double.delay("2")  # red: arg-type
    fetch.si("x", paht="/a")  # red: call-arg
    bound.delay(nmber=2)  # red: call-arg
    await bound.adelay()  # red: call-arg
    shared.delay(nmber=2)  # red: call-arg
    fetch.delay("x", "/a").get().upper()  # red: attr-defined


async def fan_out() -> None:
    fetch.partial("x")  # red: call-arg
    fetch.iterate(["/a"])  # red: arg-type, call-arg
    fetch.iterate(mode="both", path=["/a"])  # red: arg-type
    run = fetch.partial(host="x").iterate(path=["/a"])
    run.delay().reslts()  # red: attr-defined
    run.results()  # red: attr-defined
    run.delay().results().upper()  # red: attr-defined
    (await run.adelay()).results(mising=None)  # red: call-arg
    (await run.run()).raise_for_failures()  # red: attr-defined
