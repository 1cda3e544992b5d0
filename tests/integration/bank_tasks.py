"""Transfers in one transaction a task or an item, of a real database, that end half-way in every manner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from celery import shared_task
from celery.exceptions import Ignore, Reject
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from asyncworker import resource


@resource
async def bank() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(os.environ["BANK_URL"])
    try:
        yield engine
    finally:
        await engine.dispose()


@resource(scope="task")
async def of_task(bank: Annotated[AsyncEngine, bank]) -> AsyncIterator[AsyncConnection]:
    async with bank.begin() as connection:
        yield connection


@resource(scope="item")
async def of_item(bank: Annotated[AsyncEngine, bank]) -> AsyncIterator[AsyncConnection]:
    async with bank.begin() as connection:
        yield connection


async def transfer(connection: AsyncConnection, account: str, end: str, task: Any = None) -> str:
    """Take from an account, end in some manner, and put it back if it comes so far."""
    take = text("UPDATE accounts SET money = money - 30 WHERE name = :name")
    await connection.execute(take, {"name": account})
    if end == "error":
        raise KeyError(account)
    if end == "ignore":
        raise Ignore
    if end == "reject":
        raise Reject("no", requeue=False)
    if end == "retry" and not task.request.retries:
        raise task.retry(countdown=0)
    if end in ("soft limit", "hard limit", "revoke"):
        await asyncio.sleep(3600)
    return end


@shared_task(name="b.transfer", bind=True, acks_late=True)
async def of_one_task(self: Any, account: str, end: str, connection: Annotated[AsyncConnection, of_task]) -> str:
    return await transfer(connection, account, end, self)


@shared_task(name="b.item")
async def of_one_item(account: str, end: str, connection: Annotated[AsyncConnection, of_item]) -> str:
    return await transfer(connection, account, end)


@shared_task(name="b.errback")
async def errback(request: Any, exc: Any, traceback: Any, connection: Annotated[AsyncConnection, of_task]) -> None:
    await transfer(connection, "errback", "error")
