"""Using limits: ``async with limit(...)``, and several at once for a task or an item."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from asyncworker.errors import LimitError, LimitLost, SettingsError
from asyncworker.limits.limit import Limit, find_limit, number_text
from asyncworker.limits.permit import Permit

__all__ = ["Held", "Holding", "LimitUse", "holding", "in_order", "limit", "refuse_twice", "uses_of"]


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
        _in_use.setdefault(id(self), (self, []))[1].append((asyncio.current_task(), using))
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._left().__aexit__(kind, error, traceback)

    def _left(self) -> Holding:
        """Return the holding whose block ends: the last one of this task, or of one that has ended without leaving."""
        task, blocks = _running_task(), _in_use[id(self)][1]
        # An async generator that is left early, or a fixture, may be ended by another task than has entered it.
        own = [number for number, (by, _) in enumerate(blocks) if by is task]
        ended = [number for number, (by, _) in enumerate(blocks) if by is None or by.done()]
        _, using = blocks.pop((own or ended or [0])[-1])
        if not blocks:
            del _in_use[id(self)]
        return using

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


#: The blocks that were entered by each use, and by which task: a use is a value that several tasks may enter, without a
#: state of its own. By its identity: two equal ones are two blocks.
_in_use: dict[int, tuple[LimitUse, list[tuple[asyncio.Task[Any] | None, Holding]]]] = {}

#: What each task holds at the moment.
_held_by: WeakKeyDictionary[asyncio.Task[Any], Counter[tuple[str, str]]] = WeakKeyDictionary()


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
        SettingsError: Something that is neither a name nor what :func:`limit` returns, or the same twice.
    """
    if not isinstance(given, Iterable):
        raise SettingsError(f"limits is {given!r}: expected a list of limits, as limit(NAME, ...) gives, or of names")
    uses = []
    for each in [given] if isinstance(given, str | LimitUse) else given:
        if not isinstance(each, str | LimitUse):
            raise SettingsError(f"limits is {given!r}: {each!r} is no limit; expected limit(NAME, ...), or a name")
        uses.append(LimitUse(each) if isinstance(each, str) else each)
    refuse_twice([(use.name, use.by or repr(use.key)) for use in uses])
    return tuple(uses)


def refuse_twice(wanted: Sequence[tuple[str, str]]) -> None:
    """Refuse one limit twice for one key.

    Raises:
        SettingsError: Names both.
    """
    for name, key in wanted:
        if wanted.count((name, key)) > 1:
            raise SettingsError(f"limits has {name!r} twice for {key}: a permit would wait for the other one")


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
        self._refuse_to_wait_for_itself()
        while True:
            permit = await self._limit.acquire(self._key, timeout_s=self._timeout_s, holder=self._holder)
            if permit.held:
                break
            permit.release()  # this process was stopped in between
        self._held = Held([permit])
        self._held.__enter__()
        return permit

    def _refuse_to_wait_for_itself(self) -> None:
        task = asyncio.current_task()
        held = _held_by.get(task) if task is not None and self._timeout_s is None else None
        if held and self._limit.kind == "semaphore" and held[self._limit.name, self._key] >= self._limit.amount:
            where = f" for key {self._key!r}" if self._key else ""
            raise LimitError(
                f"limit {self._limit.name}{where}: this task holds all {number_text(self._limit.amount)} permits, and "
                "would wait for itself"
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, traceback)


class Held:
    """Permits that were got already, for the length of a block in one task; all of them are given back at its end."""

    __slots__ = ("_cancelling", "_context", "_loop", "_permits", "_task")

    def __init__(self, permits: Sequence[Permit]) -> None:
        self._permits = permits

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = task.cancelling()
        self._context = contextvars.copy_context()
        _held_by.setdefault(task, Counter()).update((permit.limit, permit.key) for permit in self._permits)
        for permit in self._permits:
            if permit.valid_until_s:  # those of the cluster
                permit.on_lost = self._lost
                if permit.lost:
                    self._lost()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = _running_task()
        if task is not None and task.get_loop() is self._loop:
            self._give_back()
        else:
            # A forgotten coroutine is ended by the thread that collects it. With a closed loop all was given back.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._give_back)
        lost = [permit for permit in self._permits if permit.lost and self._is_to_tell(kind, task is self._task)]
        if lost:
            # As asyncio.timeout() does it: the cancellation was ours, unless somebody else has asked for it as well.
            where = f" for key {lost[-1].key!r}" if lost[-1].key else ""
            raise LimitLost(
                f"limit {lost[-1].limit}{where}: the permit of {lost[-1].holder} could not be renewed in time; "
                f"another may have its place"
            ) from error

    def _give_back(self) -> None:
        held = _held_by.get(self._task)
        if held is not None:
            held.subtract((permit.limit, permit.key) for permit in self._permits)
        for permit in self._permits:
            permit.on_lost = None
            permit.release()

    def _is_to_tell(self, kind: type[BaseException] | None, here: bool) -> bool:
        """Tell whether the loss is to be raised: as the cancellation that it was, or where that was swallowed."""
        if here and self._task.uncancel() > self._cancelling:
            return False  # somebody else has asked for it as well
        return kind is None or (here and kind is asyncio.CancelledError)

    def _lost(self) -> None:
        # In the holder's context: to the task of an item it is the item that asks.
        self._context.run(self._task.cancel)


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


@contextlib.asynccontextmanager
async def holding(uses: Sequence[LimitUse], arguments: Mapping[str, Any], holder: str = "") -> AsyncIterator[None]:
    """Hold a permit of each limit for the length of a block.

    Args:
        uses: The limits.
        arguments: The keyword arguments of the call, for ``by``.
        holder: Who has them, as others are told.
    """
    wanted = [(use, use.key_for(arguments)) for use in in_order(uses)]
    refuse_twice([(use.name, repr(key)) for use, key in wanted])
    async with contextlib.AsyncExitStack() as stack:
        for use, key in wanted:
            await stack.enter_async_context(Holding(find_limit(use.name), key, timeout_s=use.timeout_s, holder=holder))
        yield


def in_order(uses: Sequence[LimitUse]) -> list[LimitUse]:
    """Return the limits in the order in which all ask for them: so two never wait for each other.

    Rates come last: a token that was taken is not given back.
    """
    return sorted(uses, key=lambda use: (find_limit(use.name).kind == "rate", use.name, use.key))
