"""Outcomes in Redis, as they come: one subscription for all that one event loop waits for.

A notice is never all that is relied on: each outcome is looked at once Redis has confirmed its subscription, after
every reconnect, and every few seconds.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis.asyncio as redis
from celery import states
from kombu.utils.encoding import ensure_bytes
from redis.exceptions import ConnectionError, TimeoutError

from asyncworker.worker.persist import log_wait, waits

__all__ = ["RedisWatch", "Told"]

#: Is given a task's outcome, as Celery's backend decodes it, or why there will be none.
Told = Callable[[Mapping[str, Any] | Exception], None]

LOOK_AGAIN_S = 5.0
#: How long a connection is kept that nobody needs.
LINGER_S = 10.0
#: Keys of one command.
MOST = 500

_AWAY = (ConnectionError, TimeoutError, OSError)


class RedisWatch:
    """Waits for outcomes on the running loop.

    Args:
        backend: Celery's own on Redis.
        connect: Makes a client for it.
    """

    def __init__(self, backend: Any, connect: Callable[[], redis.Redis]) -> None:
        self._backend = backend
        self._connect = connect
        self._waiting: dict[bytes, list[Told]] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._wake_to_look = asyncio.Event()
        #: Keys that are waited for since, or no more.
        self._changed: set[bytes] = set()
        self._subscribed: set[bytes] = set()
        #: How many subscriptions Redis has not confirmed, and those that it has and that are to be looked at.
        self._unconfirmed = 0
        self._confirmed: list[bytes] = []

    def add(self, task_id: str, told: Told) -> Callable[[], None]:
        """Have an outcome told, once, when it is there; it may be there already.

        Returns:
            What ends that; to be called after it was told, too.
        """
        key = ensure_bytes(self._backend.get_key_for_task(task_id))
        self._waiting.setdefault(key, []).append(told)
        if key in self._subscribed:
            self._confirmed.append(key)
            self._wake_to_look.set()
        self._has_changed(key)
        if self._task is None:
            # Nothing of the caller's context is its own.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="asyncworker-outcomes", context=contextvars.Context()
            )
        return functools.partial(self._remove, key, told)

    def _remove(self, key: bytes, told: Told) -> None:
        waiting = self._waiting.get(key, [])
        if told in waiting:
            waiting.remove(told)
            if not waiting:
                del self._waiting[key]
                self._has_changed(key)

    def _has_changed(self, key: bytes) -> None:
        self._changed.add(key)
        self._wake.set()

    # -- while anything is waited for ----------------------------------------------------------------------------

    async def _run(self) -> None:
        client = self._connect()
        try:
            await self._follow_until_idle(client)
        except Exception as exc:
            for key in list(self._waiting):
                self._tell(key, exc)
        finally:
            self._task = None
            await client.aclose()

    async def _follow_until_idle(self, client: redis.Redis) -> None:
        for wait_s in waits():
            try:
                await self._follow(client)
            except _AWAY as exc:
                log_wait(f"waiting for {len(self._waiting)} outcomes", exc)
                await asyncio.sleep(wait_s)
            if not self._waiting:
                return

    async def _follow(self, client: redis.Redis) -> None:
        """Follow one connection until it ends, or nobody has waited for a while."""
        self._subscribed.clear()
        self._confirmed.clear()
        self._unconfirmed = 0
        self._changed.update(self._waiting)
        self._wake.set()
        pubsub = client.pubsub()
        parts: set[asyncio.Task[None]] = set()
        try:
            await pubsub.connect()  # type: ignore[no-untyped-call]
            parts = set(map(asyncio.create_task, (self._subscribe(pubsub), self._read(pubsub), self._look(client))))
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            while parts:  # redis-py swallows a cancellation that comes while it connects
                for part in parts:
                    part.cancel()
                _, parts = await asyncio.wait(parts, timeout=1)
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _subscribe(self, pubsub: Any) -> None:
        while await self._wake.wait():
            self._wake.clear()
            changed, self._changed = self._changed, set()
            for keys in _chunks([key for key in changed if key in self._waiting and key not in self._subscribed]):
                self._unconfirmed += len(keys)
                self._subscribed.update(keys)
                await pubsub.subscribe(*keys)
            for keys in _chunks([key for key in changed if key not in self._waiting and key in self._subscribed]):
                self._subscribed.difference_update(keys)
                await pubsub.unsubscribe(*keys)

    async def _read(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=LOOK_AGAIN_S)
            if message is not None:
                self._take(message)

    async def _look(self, client: redis.Redis) -> None:
        """Look at what may have come before its subscription; and at all, from time to time."""
        looked_at_s = waited_at_s = time.monotonic()
        while True:
            with contextlib.suppress(builtins.TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._wake_to_look.wait()
            self._wake_to_look.clear()
            now_s = time.monotonic()
            keys, self._confirmed = self._confirmed, []
            if now_s - looked_at_s >= LOOK_AGAIN_S:
                keys, looked_at_s = list(self._waiting), now_s
            for chunk in _chunks([key for key in keys if key in self._waiting]):
                for key, document in zip(chunk, await client.mget(chunk), strict=True):
                    if document is not None:
                        self._see(key, document)
            if self._waiting:
                waited_at_s = now_s
            elif now_s - waited_at_s >= LINGER_S:
                return

    def _take(self, message: Mapping[str, Any]) -> None:
        key = ensure_bytes(message["channel"])
        if message["type"] == "subscribe":
            self._unconfirmed -= 1
            self._confirmed.append(key)
            if not self._unconfirmed or len(self._confirmed) >= MOST:
                self._wake_to_look.set()
        elif message["type"] == "message":
            self._see(key, message["data"])

    def _see(self, key: bytes, document: bytes | str) -> None:
        if key not in self._waiting:
            return
        try:
            outcome = self._backend.decode_result(document)
        except Exception as exc:  # its serializer is not accepted here
            self._tell(key, exc)
            return
        if outcome["status"] in states.READY_STATES:
            self._tell(key, outcome)

    def _tell(self, key: bytes, outcome: Mapping[str, Any] | Exception) -> None:
        for told in self._waiting.pop(key):
            told(outcome)
        self._has_changed(key)


def _chunks(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), MOST):
        yield keys[start : start + MOST]
