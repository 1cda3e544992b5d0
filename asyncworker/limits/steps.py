"""Calls of scripts in Redis, all of a process by one connection: while some are on their way, the next ones gather."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from asyncworker.errors import LimitError
from asyncworker.redis_refusals import refuses_for_now

__all__ = ["Step", "Steps"]

logger = logging.getLogger(__name__)

#: Keys and arguments that are sent together; more hold up the loop, and Redis, for too long.
MAX_PARTS = 2000
#: After a call that Redis did not answer, or could not carry out now; doubles.
PAUSE_S = 0.1
PAUSE_MAX_S = 2.0
#: Without an answer for so long, a process that ends waits for none.
CLOSE_S = 1.0


class Step(Protocol):
    """One call of a script. It is written in the moment in which it is sent, and may be sent twice."""

    script: str

    def write(self) -> tuple[list[str], list[Any]]:
        """Return its keys and its arguments."""

    def answered(self, sent_at_s: float, reply: Any) -> None:
        """Take the reply; ``sent_at_s`` is the monotonic clock when the call was sent."""

    def refused(self, error: LimitError) -> None:
        """Take that Redis refuses the call for good."""


@dataclass(eq=False, slots=True)
class _Call:
    """A step that a coroutine awaits."""

    script: str
    keys: list[str]
    arguments: list[Any]
    future: asyncio.Future[tuple[float, Any]]

    def write(self) -> tuple[list[str], list[Any]]:
        return self.keys, self.arguments

    def answered(self, sent_at_s: float, reply: Any) -> None:
        if not self.future.done():
            self.future.set_result((sent_at_s, reply))

    def refused(self, error: LimitError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class _Written:
    """A step with what is sent for it, the same each time."""

    step: Step
    keys: list[str]
    arguments: list[Any]

    @property
    def parts(self) -> int:
        return len(self.keys) + len(self.arguments)


class Steps:
    """Sends the steps of one event loop, in order; those that are urgent before the others.

    Args:
        redis: A client with one connection to spare.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._again: deque[_Written] = deque()
        self._urgent: deque[Step] = deque()
        self._steps: deque[Step] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._reported = False
        self._answers = 0

    def submit(self, step: Step, *, urgent: bool = False) -> None:
        """Send a step, again and again while Redis is away."""
        (self._urgent if urgent else self._steps).append(step)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    async def call(
        self, script: str, keys: list[str], arguments: list[Any], *, urgent: bool = False
    ) -> tuple[float, Any]:
        """Run a script, however long Redis is away.

        Returns:
            When it was sent, by the monotonic clock, and its reply.

        Raises:
            LimitError: Redis refuses it for good.
        """
        future: asyncio.Future[tuple[float, Any]] = asyncio.get_running_loop().create_future()
        self.submit(_Call(script, keys, arguments, future), urgent=urgent)
        return await future

    async def close(self) -> None:
        """Send what is left as long as Redis answers, then nothing more; who still waits is cancelled."""
        answers = -1
        while self._sending is not None and answers != self._answers:
            answers = self._answers
            await asyncio.wait([self._sending], timeout=CLOSE_S)
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        for step in [*(written.step for written in self._again), *self._urgent, *self._steps]:
            if isinstance(step, _Call):
                step.future.cancel()

    async def _send(self) -> None:
        pause_s = PAUSE_S
        try:
            await asyncio.sleep(0)  # those that ask in this pass of the loop go along
            while batch := self._next_batch():
                try:
                    again = await self._send_batch(batch)
                except BaseException:
                    self._again.extendleft(reversed(batch))
                    raise
                self._answers += len(batch) - len(again)
                if not again:
                    pause_s, self._reported = PAUSE_S, False
                    continue
                self._again.extendleft(reversed(again))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        finally:
            self._sending = None

    def _next_batch(self) -> list[_Written]:
        batch: list[_Written] = []
        parts = 0
        while parts < MAX_PARTS and (self._again or self._urgent or self._steps):
            if self._again:
                written: _Written | None = self._again.popleft()
            else:
                written = _write((self._urgent or self._steps).popleft())
            if written is not None:
                batch.append(written)
                parts += written.parts
        return batch

    async def _send_batch(self, batch: Sequence[_Written]) -> list[_Written]:
        """Send steps; returns those that are to be sent again."""
        sent_at_s = time.monotonic()
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for each in batch:
                digest = _digest(each.step.script)
                pipeline.execute_command("EVALSHA", digest, len(each.keys), *each.keys, *each.arguments)
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            self._report(exc)
            return list(batch)
        except Exception as exc:  # a value that cannot be sent
            if len(batch) > 1:  # it hurts its own step only
                return [again for each in batch for again in await self._send_batch([each])]
            batch[0].step.refused(LimitError(f"what a limit asks of Redis cannot be sent: {exc!r}"))
            return []
        unknown = {
            each.step.script for each, reply in zip(batch, replies, strict=True) if isinstance(reply, NoScriptError)
        }
        loaded = not unknown or await self._load(unknown)
        again: list[_Written] = []
        for each, reply in zip(batch, replies, strict=True):
            if isinstance(reply, NoScriptError):
                (self._again if loaded else again).append(each)
            elif isinstance(reply, ResponseError) and not refuses_for_now(reply):
                each.step.refused(LimitError(f"Redis refuses what a limit asks: {reply}"))
            elif isinstance(reply, Exception):
                self._report(reply)
                again.append(each)
            else:
                _answer(each.step, sent_at_s, reply)
        return again

    async def _load(self, scripts: set[str]) -> bool:
        try:
            for script in scripts:
                await self._redis.script_load(script)
        except (RedisError, OSError) as exc:
            self._report(exc)
            return False
        return True

    def _report(self, exc: Exception) -> None:
        if not self._reported:
            self._reported = True
            logger.warning("limits: Redis does not answer, or cannot now; permits and tokens wait for it: %r", exc)


def _write(step: Step) -> _Written | None:
    try:
        return _Written(step, *step.write())
    except Exception as exc:  # hurts this step only
        step.refused(LimitError(f"what a limit asks of Redis cannot be written: {exc!r}"))
        return None


def _answer(step: Step, sent_at_s: float, reply: Any) -> None:
    try:
        step.answered(sent_at_s, reply)
    except Exception as exc:
        logger.exception("limits: a reply of Redis could not be used")
        step.refused(LimitError(f"a reply of Redis could not be used: {exc!r}"))


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
