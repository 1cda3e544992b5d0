"""Make what a resource declares, as often as it allows, and keep it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from asyncworker.errors import ResourceError, SettingsError
from asyncworker.resources.lifetimes import Lifetimes
from asyncworker.resources.living import Living
from asyncworker.resources.scopes import hide_narrower

if TYPE_CHECKING:
    from asyncworker.resources.resource import Resource

__all__ = ["Made", "being_made", "make"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The longest wait between two attempts.
BACKOFF_MAX_S = 10.0

#: What the running code makes, or has made: a task that is started by a generator inherits it.
_maker: contextvars.ContextVar[Made[Any] | None] = contextvars.ContextVar("asyncworker_maker", default=None)


def being_made() -> Resource[Any] | None:
    """Return the resource in whose making the running code takes part."""
    found = _maker.get()
    return found.resource if found is not None and found.unfinished else None


async def make(resource: Resource[T], kept: Lifetimes) -> Made[T]:
    """Make a resource, trying again as often as it allows.

    Raises:
        ResourceError: It could not be made. It is logged once, and then not before it has been made again.
    """
    attempts = AsyncRetrying(
        stop=stop_after_attempt(resource.retries + 1),
        wait=wait_random_exponential(multiplier=resource.backoff_s, max=BACKOFF_MAX_S),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    made: Made[T] = Made(resource, kept)
    try:
        await attempts(made.start)
    except ResourceError:
        raise
    except Exception as exc:
        tries = resource.retries + 1 if _may_pass(exc) else 1
        told = f"resource {resource.name} could not be made in {tries} attempts: {type(exc).__name__}: {exc}"
        if not resource.reported:
            resource.reported = True
            logger.error("%s", told, exc_info=exc)
        raise ResourceError(told) from exc
    if resource.reported:
        resource.reported = False
        logger.info("resource %s is made again", resource.name)
    return made


def _may_pass(exc: BaseException) -> bool:
    # What it needs was tried often enough, and settings do not change.
    return isinstance(exc, Exception) and not isinstance(exc, ResourceError | SettingsError)


class Made(Generic[T]):
    """One thing that a resource has made, as :class:`Lifetimes` keeps it."""

    def __init__(self, resource: Resource[T], kept: Lifetimes) -> None:
        self.resource = resource
        self.unfinished = True
        self._kept = kept
        self._key = resource.key()
        self._living: Living[T]
        self._limit: asyncio.Timeout

    @property
    def value(self) -> T:
        """The thing itself."""
        return self._living.value

    async def start(self) -> None:
        """Run the generator up to its ``yield``; raises what it raises."""
        self._living = Living(
            f"resource {self.resource.name}",
            self._begin,
            on_end=self._ended,
            # What belongs to the process must not know the task that happened to need it first.
            context=contextvars.Context() if self.resource.scope == "process" else None,
        )
        limit_s = self.resource.connect_timeout_s
        try:
            async with asyncio.timeout(None) as self._limit:
                await self._living.start()
        except TimeoutError as exc:
            if not self._limit.expired():
                raise
            raise TimeoutError(f"it was not open within connect_timeout_s={limit_s:g}") from exc
        self.unfinished = False

    async def close(self) -> None:
        """Let the generator run to its end; raises what it raises."""
        await self._living.close(self.resource.close_timeout_s)

    async def leave(self, failure: BaseException | None) -> bool:
        """Let the generator end by what ended its task or item; see :meth:`Living.leave`."""
        return await self._living.leave(failure, self.resource.close_timeout_s)

    async def _begin(self) -> AsyncIterator[T]:
        from asyncworker.resources.resource import use

        hide_narrower(self.resource.scope)
        _maker.set(self)
        needed = {name: await use(each) for name, each in self.resource.needs.items()}
        if self.resource.connect_timeout_s is not None:
            # Not before: what it needs has limits of its own.
            self._limit.reschedule(asyncio.get_running_loop().time() + self.resource.connect_timeout_s)
        return self.resource.generator(**needed)

    def _ended(self, exc: BaseException | None) -> None:
        self._kept.discard(self._key, self)
        if exc is not None:
            logger.error("%s ended by itself, and is made anew when it is used next", self.resource, exc_info=exc)
