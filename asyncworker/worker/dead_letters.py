"""Messages that cannot be run: kept in the dead letters, and only then settled at the broker."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kombu.utils.encoding import safe_repr
from kombu.utils.json import dumps

from asyncworker.counters import counter
from asyncworker.errors import StoreError
from asyncworker.loop import LoopThread
from asyncworker.printable import printable
from asyncworker.settings import Settings
from asyncworker.store import DeadLetter, shared_store
from asyncworker.worker.outbox import Outbox
from asyncworker.worker.persist import log_wait, waits

__all__ = ["DeadLetterWriter", "bury", "counted", "letter_of", "letter_of_raw", "use_writer"]

logger = logging.getLogger(__name__)

#: Stored of a message that cannot be run.
KEPT_BYTES = 4096
#: Arguments that are larger are not kept for a replay.
MOST_ARGUMENT_BYTES = 1 << 20
#: Letters in one transaction.
BATCH = 100

#: What was given up, of whatever kind.
counted = counter("dead_letters")

#: Settles a message at its broker, on the main thread.
Settle = Callable[[], None]


class DeadLetterWriter:
    """Stores letters in batches, and settles each message afterwards. :meth:`bury` is the main thread's.

    While the store is away the messages stay unacknowledged: they count as prefetched, so that a flood of them holds
    itself back, and a worker that ends leaves them to the next one. A letter that is stored twice is one letter.

    Args:
        settings: Name the store.
        loop_thread: Its loop writes.
        outbox: Has the main thread settle each message.
    """

    def __init__(self, settings: Settings, loop_thread: LoopThread, outbox: Outbox) -> None:
        self._settings = settings
        self._loop = loop_thread.loop
        self._outbox = outbox
        self._waiting: deque[tuple[DeadLetter, Settle]] = deque()
        self._writing: asyncio.Task[None] | None = None

    def bury(self, letter: DeadLetter, settle: Settle) -> None:
        """Store a letter, then settle its message."""
        self._waiting.append((letter, settle))
        self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        if self._writing is None:
            self._writing = self._loop.create_task(self._write(), name="asyncworker-dead-letters")

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._store([letter for letter, _settle in batch])
                for _letter, settle in batch:
                    self._outbox.put(settle)
        finally:
            self._writing = None

    async def _store(self, letters: list[DeadLetter]) -> None:
        for wait_s in waits():
            try:
                store = await shared_store(self._settings)  # which imports what follows off the loop
                from asyncworker.store import Deliveries

                await Deliveries(store).bury_messages(letters)
                counted.add(len(letters))
            except Exception as exc:
                if isinstance(exc, StoreError) and not _is_about_a_value(exc):
                    log_wait("storing dead letters", exc)
                    await asyncio.sleep(wait_s)
                    continue
                if len(letters) > 1:
                    for letter in letters:  # one of them is what no store takes; it is not to take the others along
                        await self._store([letter])
                else:
                    # The log has it, too, and it is not delivered for ever.
                    logger.exception("the dead letter of %s could not be stored", printable(letters[0].task_id))
            return


def _is_about_a_value(exc: StoreError) -> bool:
    from sqlalchemy.exc import DataError

    return isinstance(exc.__cause__, DataError)


#: Stores letters, in a process that has an async pool.
Store = Callable[[DeadLetter, Settle], None]

_store: Store | None = None


def use_writer(store: Store | None) -> None:
    """Have :func:`bury` store letters by this; ``None``: only log them."""
    global _store
    _store = store


def bury(letter: DeadLetter, settle: Settle) -> None:
    """Log a message that cannot be run, store it in the dead letters, then settle it at the broker.

    Args:
        letter: Describes the message.
        settle: Called on the main thread once the letter is stored.
    """
    logger.error(
        "message %s%s cannot be run and goes to the dead letters: %s; it begins with %r",
        printable(letter.task_id),
        printable(f" from queue {letter.queue}" if letter.queue else ""),
        printable(letter.reason),
        letter.message[:200],
    )
    if _store is None:
        settle()
    else:
        _store(letter, settle)


def letter_of(message: Any, exc: BaseException) -> DeadLetter:
    """Describe a message of kombu's that cannot be run.

    Args:
        message: Whatever is wrong with it.
        exc: The reason.
    """
    body, headers = message.body, message.headers
    raw = body.encode(errors="backslashreplace") if isinstance(body, str) else bytes(body or b"")
    fields = headers if isinstance(headers, dict) and "task" in headers else _payload(message)
    where = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    digest = hashlib.sha256(raw + (safe_repr(headers).encode(errors="backslashreplace") if headers else b""))
    return _letter(
        task_id=_text(fields.get("id")) or f"message-{digest.hexdigest()[:32]}",
        task=_text(fields.get("task")),
        queue=_text(where.get("routing_key")),
        reason=f"{type(exc).__name__}: {exc}",
        message=raw,
        arguments=_arguments(message, headers),
    )


def letter_of_raw(raw: bytes, queue: str, exc: BaseException) -> DeadLetter:
    """Describe what stood in the place of a message and is none."""
    digest = hashlib.sha256(raw).hexdigest()
    reason = f"not a message: {type(exc).__name__}: {exc}"
    return _letter(task_id=f"message-{digest[:32]}", task="", queue=queue, reason=reason, message=raw, arguments=b"")


def _letter(*, reason: str, message: bytes, **rest: Any) -> DeadLetter:
    return DeadLetter(
        reason=reason[:KEPT_BYTES],
        message=message[:KEPT_BYTES],
        starts=0,
        dead_at=datetime.now(UTC),
        history=[],
        **rest,
    )


def _payload(message: Any) -> dict[str, Any]:
    """Return the body of a message of Celery's first protocol, which has all in there."""
    try:
        payload = message.payload
    except Exception:
        return {}
    return payload if isinstance(payload, dict) else {}


def _arguments(message: Any, headers: Any) -> bytes:
    """Return what a replay needs, where the message has it; its headers in any case."""
    known: dict[str, Any] = {"headers": safe_repr(headers)[:KEPT_BYTES]}
    try:
        args, kwargs, _embed = message.payload
        arguments = dumps({"args": args, "kwargs": kwargs} | known).encode()
        return arguments if len(arguments) <= MOST_ARGUMENT_BYTES else dumps(known).encode()
    except Exception:
        return dumps(known).encode()


def _text(value: Any) -> str:
    return value[:KEPT_BYTES] if isinstance(value, str) else ""
