"""Calls of scripts in Redis, all of a process by one connection: while some are on their way, the next ones gather."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from asyncworker.errors import LimitError

__all__ = ["Steps"]

logger = logging.getLogger(__name__)

#: The most calls that are sent together; more hold up the loop, and Redis, for too long.
MOST = 250
#: After a call that Redis did not answer, or could not carry out now; doubles.
PAUSE_S = 0.1
PAUSE_MAX_S = 2.0
#: How the answers of a server begin that may be able to later: it is full, a replica, still loading, busy.
_FOR_NOW = ("OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "BUSY", "TRYAGAIN", "NOREPLICAS", "CLUSTERDOWN")


@dataclass(eq=False, slots=True)
class _Call:
    script: str
    keys: list[str]
    arguments: list[Any]
    future: asyncio.Future[tuple[float, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Steps:
    """Sends the calls of one event loop. Each must be one that may be made twice: it is sent again after an error.

    Args:
        redis: A client with one connection to spare.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._calls: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._told = False

    async def call(self, script: str, keys: list[str], arguments: list[Any]) -> tuple[float, Any]:
        """Run a script, however long Redis is away.

        Returns:
            When it was sent, by the monotonic clock, and its reply.

        Raises:
            LimitError: Redis refuses it for good.
        """
        call = _Call(script, keys, arguments)
        self._calls.append(call)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        return await call.future

    async def close(self) -> None:
        """Send nothing more; who waits is cancelled."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        for call in self._calls:
            call.future.cancel()

    async def _send(self) -> None:
        pause_s = PAUSE_S
        try:
            await asyncio.sleep(0)  # those that ask in this pass of the loop go along
            while self._calls:
                batch = [self._calls.popleft() for _ in range(min(MOST, len(self._calls)))]
                batch = [call for call in batch if not call.future.done()]
                try:
                    again = await self._send_batch(batch)
                except BaseException:
                    self._calls.extendleft(reversed(batch))
                    raise
                if not again:
                    pause_s, self._told = PAUSE_S, False
                    continue
                self._calls.extendleft(reversed(again))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        finally:
            self._sending = None

    async def _send_batch(self, batch: list[_Call]) -> list[_Call]:
        """Send calls; returns those that are to be sent again."""
        sent_at_s = time.monotonic()
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for call in batch:
                pipeline.execute_command("EVALSHA", _digest(call.script), len(call.keys), *call.keys, *call.arguments)
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            self._tell(exc)
            return batch
        except Exception as exc:  # a value that cannot be sent
            for call in batch:
                _fail(call, LimitError(f"what a limit asks of Redis cannot be sent: {exc!r}"))
            return []
        again = []
        unknown = {call.script for call, reply in zip(batch, replies, strict=True) if isinstance(reply, NoScriptError)}
        if unknown and not await self._load(unknown):
            return batch
        for call, reply in zip(batch, replies, strict=True):
            if isinstance(reply, NoScriptError):
                self._calls.appendleft(call)
            elif isinstance(reply, ResponseError) and not str(reply).startswith(_FOR_NOW):
                _fail(call, LimitError(f"Redis refuses what a limit asks: {reply}"))
            elif isinstance(reply, Exception):
                self._tell(reply)
                again.append(call)
            elif not call.future.done():
                call.future.set_result((sent_at_s, reply))
        return again

    async def _load(self, scripts: set[str]) -> bool:
        try:
            for script in scripts:
                await self._redis.script_load(script)
        except (RedisError, OSError) as exc:
            self._tell(exc)
            return False
        return True

    def _tell(self, exc: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning("limits: Redis does not answer, or cannot now; permits and tokens wait for it: %r", exc)


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _fail(call: _Call, error: LimitError) -> None:
    if not call.future.done():
        call.future.set_exception(error)
