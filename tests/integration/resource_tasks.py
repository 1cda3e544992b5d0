"""Tasks that use resources; each making and closing is written down."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from celery import shared_task
from pydantic import BaseModel

from asyncworker import resource, use

LOG = "RESOURCE_LOG"


def note(line: str) -> None:
    # One write a line, appended whole.
    descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


class Client:
    async def double(self, number: int) -> int:
        return 2 * number


class Order(BaseModel):
    number: int


@resource
async def address() -> AsyncIterator[str]:
    note("address made")
    yield "shop.example.com"
    note("address closed")


@resource
async def client(address: Annotated[str, address]) -> AsyncIterator[Client]:
    note(f"client made for {address}")
    yield Client()
    note("client closed")


@resource(scope="task")
async def session(client: Annotated[Client, client]) -> AsyncIterator[object]:
    note("session made")
    yield object()
    note("session closed")


@resource(scope="item")
async def cursor(session: Annotated[object, session]) -> AsyncIterator[object]:
    note("cursor made")
    yield object()
    note("cursor closed")


@shared_task(name="r.plain")
async def plain(number: int, client: Annotated[Client, client]) -> int:
    return await client.double(number)


@shared_task(name="r.first")
async def first(client: Annotated[Client, client], number: int, *, more: int = 0) -> int:
    return await client.double(number) + more


@shared_task(name="r.bound", bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
async def bound(self: Any, number: int, client: Annotated[Client, client]) -> int:
    if not self.request.retries:
        raise ValueError("not yet")
    return await client.double(number)


@shared_task(name="r.pydantic", pydantic=True)
async def checked(order: Order, client: Annotated[Client, client]) -> Order:
    return Order(number=await client.double(order.number))


@shared_task(name="r.pydantic_bound", bind=True, pydantic=True)
async def checked_bound(self: Any, order: Order, client: Annotated[Client, client]) -> Order:
    assert self.request.id
    return Order(number=await client.double(order.number))


@shared_task(name="r.numbers")
async def numbers(count: int, client: Annotated[Client, client]) -> AsyncIterator[int]:
    for number in range(count):
        yield await client.double(number)


@shared_task(name="r.asks")
async def asks(number: int) -> int:
    return await (await use(client)).double(number)


@shared_task(name="r.in_session")
async def in_session(number: int, session: Annotated[object, session]) -> int:
    note("body")
    return number


@shared_task(name="r.with_cursor")
async def with_cursor(number: int, cursor: Annotated[object, cursor]) -> int:
    assert await use(cursor_of_item) is cursor
    return number


cursor_of_item = cursor
