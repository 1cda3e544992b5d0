"""The sending side that all competitors share: ``... fill noop N``, ``... send N``, ``... call N PER_S``.

Prints JSON. Runs in each competitor's own interpreter, on uvloop, with that competitor's :class:`Client`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Any, Protocol

import uvloop

__all__ = ["Client", "a_few_at_once", "main"]

#: Number of a task, and for a sleeping one the seconds.
Row = tuple[Any, ...]

_CHUNK = 1000
_AT_ONCE = 50
_WARM_UP_CALLS = 20
_CALL_S = 30.0


class Client(AbstractAsyncContextManager["Client"], Protocol):
    """What a competitor's side gives."""

    async def send_many(self, name: str, rows: Sequence[Row]) -> None:
        """Send a task for each row, by the quickest way that the library has."""

    async def call(self, number: int) -> int:
        """Send one ``noop``, wait for its result, return that."""


async def a_few_at_once(calls: Iterable[Awaitable[Any]]) -> None:
    """Await them, as many at once as pays on one Redis."""
    rest = iter(calls)
    while some := list(islice(rest, _AT_ONCE)):
        await asyncio.gather(*some)


async def _fill(client: Client, name: str, amount: int, *more: float) -> dict[str, Any]:
    for start in range(0, amount, _CHUNK):
        await client.send_many(name, [(number, *more) for number in range(start, min(start + _CHUNK, amount))])
    return {}


async def _send(client: Client, amount: int) -> dict[str, Any]:
    """Time it; the first few open the connections, and do not count."""
    await client.send_many("noop", [(0,)] * _WARM_UP_CALLS)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await _fill(client, "noop", amount - _WARM_UP_CALLS)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    sent = amount - _WARM_UP_CALLS
    return {"sent_per_s": sent / took_s, "sent_per_cpu_s": sent / cpu_s}


async def _call(client: Client, amount: int, per_s: float) -> dict[str, Any]:
    """Call at a steady pace, one after the other: what outlasts its turn delays the next."""
    for number in range(_WARM_UP_CALLS):
        await asyncio.wait_for(client.call(number), _CALL_S)
    took_s = []
    began_s = time.perf_counter()
    for number in range(amount):
        await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
        sent_s = time.perf_counter()
        result = await asyncio.wait_for(client.call(number), _CALL_S)
        took_s.append(time.perf_counter() - sent_s)
        if result != number:
            raise SystemExit(f"the result of {number} is {result!r}")
    return {"took_s": took_s}


async def _run(make: Callable[[], Client], verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    async with make() as client:
        if verb == "fill":
            return await _fill(client, arguments[0], int(arguments[1]), *map(float, arguments[2:]))
        if verb == "send":
            return await _send(client, int(arguments[0]))
        return await _call(client, int(arguments[0]), float(arguments[1]))


def main(make: Callable[[], Client]) -> None:
    """Do what the command line says."""
    print(json.dumps(uvloop.run(_run(make, sys.argv[1], sys.argv[2:]))))
