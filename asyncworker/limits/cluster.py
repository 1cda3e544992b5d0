"""The limits of a cluster, as one process sees them: its connection to Redis, and what listens there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import socket
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from asyncworker.errors import LimitError
from asyncworker.limits.cluster_rate import ClusterRate
from asyncworker.limits.cluster_semaphore import ClusterSemaphore
from asyncworker.limits.keeper import Keeper
from asyncworker.limits.permit import Place
from asyncworker.limits.scripts import CHANGED, DECLARE, DECLARED, RATE, WAKE
from asyncworker.limits.steps import Steps
from asyncworker.redaction import redacted
from asyncworker.resources import lifetimes
from asyncworker.settings import load_settings

DriverInfo: Any
try:
    from redis.driver_info import DriverInfo
except ImportError:  # before redis 7.1
    DriverInfo = None

__all__ = ["Cluster", "limits_url", "shared_cluster", "use_limits_url"]

logger = logging.getLogger(__name__)

#: How long Redis may owe an answer.
ANSWER_S = 5.0
#: After an error of the connection that listens.
PAUSE_S = 0.5
#: The most semaphores that are given back in one pass of the loop.
TOGETHER = 250

#: What the app's configuration says; else the environment does.
_url: str | Callable[[], str] = ""


def use_limits_url(url: str | Callable[[], str]) -> None:
    """Set the Redis of cluster-wide limits for this process, or a way to ask for it; in any spelling."""
    global _url
    _url = url


def limits_url() -> str:
    """Return the Redis of cluster-wide limits, as redis-py spells it.

    Raises:
        LimitError: There is none: it is never guessed, since a limit that does not hold is worse than none.
    """
    url = _url if isinstance(_url, str) else _url()
    if not url:
        settings = load_settings()
        url = settings.limits_url or settings.broker_url or os.environ.get("CELERY_BROKER_URL", "")
    return _spelled(url)


@functools.lru_cache
def _spelled(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        try:
            parse_url(url)
        except ValueError:  # which quotes a part of it
            raise LimitError(
                f"cluster-wide limits are kept on Redis, and {redacted(url)!r} is no URL of one: expected "
                "redis://HOST:PORT/DB"
            ) from None
        return url
    if parts.scheme in ("redis+socket", "socket"):
        database = parse_qs(parts.query).get("virtual_host", ["0"])[-1].lstrip("/")
        return f"unix://{parts.path}?db={database}"
    raise LimitError(
        f"cluster-wide limits are kept on Redis, and the broker is {parts.scheme or 'not set'}: set "
        f"ASYNCWORKER_LIMITS_URL to a redis:// URL that all workers share, or declare the limit without cluster=True"
    )


async def shared_cluster() -> Cluster:
    """Return the running loop's view of the cluster's limits.

    Raises:
        LimitError: There is no Redis for it.
    """
    url = limits_url()

    async def make() -> Cluster:
        # In a thread: the client looks at files for its own version.
        cluster = await asyncio.to_thread(Cluster, url)
        await cluster.start()
        return cluster

    return await lifetimes().use((Cluster, url), make)


class Cluster:
    """One process' part in the limits of its cluster. Used on one event loop.

    Args:
        url: The Redis.
    """

    def __init__(self, url: str) -> None:
        # Given, so that not every connection asks for it anew.
        driver = {} if DriverInfo is None else {"driver_info": DriverInfo()}
        self.redis: Redis = Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, **driver)
        self.steps = Steps(self.redis)
        self.keeper = Keeper(self.steps)
        self.process = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        #: Those that hold or wait for something.
        self.active: dict[tuple[str, str], ClusterSemaphore] = {}
        #: Those that are waited for.
        self.rates: set[ClusterRate] = set()
        self._listener: asyncio.Task[None] | None = None
        self._declared: set[str] = set()

    async def start(self) -> None:
        """Begin to listen for permits that others' steps give to this process."""
        pubsub = self.redis.pubsub()
        with contextlib.suppress(RedisError, OSError):
            await pubsub.subscribe(WAKE + self.process, CHANGED)
            for _ in range(2):
                # Who does not listen yet is taken for dead by the first step that has a permit for it.
                await pubsub.get_message(timeout=ANSWER_S)
        self._listener = asyncio.create_task(self._listen(pubsub), name="limits-listener")

    async def close(self) -> None:
        """Give back what is held, and part from Redis."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        self.keeper.close()
        for number, semaphore in enumerate(list(self.active.values()), 1):
            semaphore.give_all_back()
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
        await self.steps.close()
        await self.redis.aclose()

    # -- places --------------------------------------------------------------------------------------------------------

    def semaphore(self, name: str, key: str, permits: int, lease_s: float) -> Place:
        """Return the place of one key of a semaphore."""
        return self.active.get((name, key)) or ClusterSemaphore(self, name, key, permits, lease_s)

    def rate(self, name: str, key: str, amount: float, per_s: float, burst: int) -> Place:
        """Return the place of one key of a rate."""
        return ClusterRate(self, name, key, amount, per_s, burst)

    def new_id(self) -> str:
        """Return an id for a permit."""
        return f"{self.process}/{next(self._numbers)}"

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def rate_step(self, keys: list[str], arguments: list[Any]) -> tuple[int, float, float, float]:
        """Take tokens; returns how many, in how many seconds the first and from one to the next, when to ask again."""
        _, (taken, first, interval, again) = await self.steps.call(RATE, keys, arguments)
        return int(taken), first / 1e6, interval / 1e6, again / 1e6

    def declare(self, name: str, what: dict[str, Any]) -> None:
        """Let the command line know a limit; once a process, before anything is asked of it."""
        if name not in self._declared:
            self._declared.add(name)
            self.steps.submit(_Declaration(name, what))

    # -- listening -----------------------------------------------------------------------------------------------------

    async def _listen(self, pubsub: Any) -> None:
        try:
            while True:
                try:
                    if not pubsub.subscribed:
                        await pubsub.subscribe(WAKE + self.process, CHANGED)
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=PAUSE_S)
                except (RedisError, OSError) as exc:
                    logger.debug("the limits' listener has lost Redis: %r", exc)
                    await asyncio.sleep(PAUSE_S)
                    self._look_again()
                else:
                    if message is not None:
                        self._take(message)
        finally:
            await pubsub.aclose()

    def _take(self, message: dict[str, Any]) -> None:
        if message["channel"].decode() == CHANGED:
            self.keeper.ask_all()
            self._ask_for_rates(message["data"].decode())
            return
        name, key, id = json.loads(message["data"])
        semaphore = self.active.get((name, key))
        if semaphore is not None:
            semaphore.confirm(id)

    def _look_again(self) -> None:
        self.keeper.renew_all()
        self._ask_for_rates()

    def _ask_for_rates(self, name: str = "") -> None:
        for rate in self.rates:
            if name in ("", rate.name):
                rate.look_again()


class _Declaration:
    """Tells the command line of one limit."""

    script = DECLARE

    def __init__(self, name: str, what: dict[str, Any]) -> None:
        self._name = name
        self._what = what

    def write(self) -> tuple[list[str], list[Any]]:
        return [DECLARED], [self._name, json.dumps(self._what)]

    def answered(self, sent_at_s: float, reply: Any) -> None:
        pass

    def refused(self, error: LimitError) -> None:
        logger.error("limit %s: the command line will not show it: %s", self._name, error)
