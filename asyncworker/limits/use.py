"""Using limits: ``async with limit(...)``, and several at once for a task or an item."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from asyncworker.errors import LimitLost, SettingsError
from asyncworker.limits.limit import Limit, find_limit
from asyncworker.limits.permit import Permit

__all__ = ["Held", "Holding", "LimitUse", "holding", "in_order", "limit", "uses_of"]


class LimitUse(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a limit is used: by name, so that it can travel in a message. :func:`limit` makes it."""

    name: str
    key: str = ""
    by: str = ""
    timeout_s: float | None = None

    async def __aenter__(self) -> Permit:
        if self.by:
            raise SettingsError(
                f"limit({self.name!r}, by={self.by!r}) is for tasks and items; give the key itself here"
            )
        using = Holding(find_limit(self.name), self.key, timeout_s=self.timeout_s)
        permit = await using.__aenter__()
        task = asyncio.current_task()
        assert task is not None
        _in_use.setdefault(task, []).append(using)
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        await _in_use[task].pop().__aexit__(kind, error, traceback)

    def fixed(self, arguments: Mapping[str, Any]) -> LimitUse:
        """Return the use with its key filled in, where the argument that it is told by is among these."""
        if self.by not in arguments:
            return self
        return LimitUse(self.name, str(arguments[self.by]), "", self.timeout_s)

    def key_for(self, arguments: Mapping[str, Any]) -> str:
        """Return the key for a call with these arguments.

        Raises:
            SettingsError: There is no argument of the name in ``by``.
        """
        if not self.by:
            return self.key
        if self.by not in arguments:
            known = ", ".join(arguments) or "none"
            raise SettingsError(
                f"limit({self.name!r}, by={self.by!r}): the call has no such argument by name; has {known}"
            )
        return str(arguments[self.by])


#: The blocks that a task is in: a use is a value that several tasks may enter, and has no state.
_in_use: WeakKeyDictionary[asyncio.Task[Any], list[Holding]] = WeakKeyDictionary()


def limit(name: str, *, key: str = "", by: str = "", timeout_s: float | None = None) -> LimitUse:
    """Use a limit: in ``async with``, in ``options(limits=[...])`` of a fan-out, or in ``@app.task(limits=[...])``.

    Args:
        name: As it was declared.
        key: Each key has permits of its own.
        by: For a task or an item: the keyword argument whose value is the key.
        timeout_s: How long to wait for a permit before a ``LimitTimeout``; ``None``: for ever.

    Raises:
        SettingsError: Both ``key`` and ``by``.
    """
    if key and by:
        raise SettingsError(f"limit({name!r}): key={key!r} and by={by!r} at once; give one of them")
    return LimitUse(name, key, by, timeout_s)


def uses_of(given: Iterable[LimitUse | str]) -> tuple[LimitUse, ...]:
    """Take names for limits that are used without a key.

    Raises:
        SettingsError: Something that is neither a name nor what :func:`limit` returns.
    """
    uses = []
    for each in [given] if isinstance(given, str | LimitUse) else given:
        if not isinstance(each, str | LimitUse):
            raise SettingsError(f"limits is {given!r}: {each!r} is no limit; expected limit(NAME, ...), or a name")
        uses.append(LimitUse(each) if isinstance(each, str) else each)
    return tuple(uses)


class Holding:
    """A permit for the length of a block. A permit of the cluster that is lost cancels the block."""

    __slots__ = ("_held", "_holder", "_key", "_limit", "_timeout_s")

    def __init__(self, limit: Limit, key: str = "", *, timeout_s: float | None = None, holder: str = "") -> None:
        self._limit = limit
        self._key = key
        self._timeout_s = timeout_s
        self._holder = holder
        self._held: Held

    async def __aenter__(self) -> Permit:
        while True:
            permit = await self._limit.acquire(self._key, timeout_s=self._timeout_s, holder=self._holder)
            if permit.held:
                break
            permit.release()  # this process was stopped in between
        self._held = Held([permit])
        self._held.__enter__()
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, traceback)


class Held:
    """Permits that were got already, for the length of a block in one task; all of them are given back at its end."""

    __slots__ = ("_cancelling", "_context", "_permits", "_task")

    def __init__(self, permits: Sequence[Permit]) -> None:
        self._permits = permits

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._context = contextvars.copy_context()
        for permit in self._permits:
            if permit.valid_until_s:  # those of the cluster
                permit.on_lost = self._lost
                if permit.lost:
                    self._lost()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lost = None
        for permit in self._permits:
            permit.on_lost = None
            permit.release()
            if permit.lost and (self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError):
                lost = permit
        if lost is not None:
            # As asyncio.timeout() does it: the cancellation was ours, unless somebody else has asked for it as well.
            where = f" for key {lost.key!r}" if lost.key else ""
            raise LimitLost(
                f"limit {lost.limit}{where}: the permit of {lost.holder} could not be renewed in time; "
                f"another may have its place"
            ) from error

    def _lost(self) -> None:
        # In the holder's context: to the task of an item it is the item that asks.
        self._context.run(self._task.cancel)


@contextlib.asynccontextmanager
async def holding(uses: Sequence[LimitUse], arguments: Mapping[str, Any], holder: str = "") -> AsyncIterator[None]:
    """Hold a permit of each limit for the length of a block.

    Args:
        uses: The limits.
        arguments: The keyword arguments of the call, for ``by``.
        holder: Who has them, as others are told.
    """
    async with contextlib.AsyncExitStack() as stack:
        for use in in_order(uses):
            key = use.key_for(arguments)
            await stack.enter_async_context(Holding(find_limit(use.name), key, timeout_s=use.timeout_s, holder=holder))
        yield


def in_order(uses: Sequence[LimitUse]) -> list[LimitUse]:
    """Return the limits in the order in which all ask for them: so two never wait for each other.

    Rates come last: a token that was taken is not given back.
    """
    return sorted(uses, key=lambda use: (find_limit(use.name).kind == "rate", use.name, use.key))
