"""Sending tasks from a coroutine: calls that come together leave the loop together, and go to the broker in one batch.

A message is what ``apply_async`` makes of it, with Celery's routing, signals and retries. Where the transport has
batches (kombu's ``Producer.batch``: Redis), the messages of a batch are one round trip; elsewhere each is sent, and
confirmed, by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import kombu.exceptions
from celery.canvas import Signature, group
from celery.result import AsyncResult
from celery.utils import uuid
from kombu import Producer
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool

from asyncworker.loop import off_loop_async
from asyncworker.tasks.names import RUN_ITERATE, with_message_name

__all__ = ["publish_many", "send"]

#: kombu before 5.7 has no batches, and no error of theirs.
_BatchPublishError: Any = getattr(kombu.exceptions, "BatchPublishError", ())

#: So many messages are one batch: the thread that makes them holds the interpreter from the loop for a moment.
BATCH = 200


async def publish_many(signatures: Iterable[Signature[Any]]) -> list[Any]:
    """Send many tasks without holding up the running loop, in as few round trips as the broker allows.

    Args:
        signatures: Of tasks and fan-outs, or groups, whose tasks are sent in the same way; read as fast as they are
            sent. What is no plain task of a group, such as a chain, goes by itself. For a chain or a chord use its own
            ``apply_async``: Celery takes no part in batches with them.

    Returns:
        Their results, in the order of the signatures: a ``GroupResult`` for a group.

    Raises:
        TypeError: One is not the signature of a task or a group.
        ExceptionGroup: Some could not be sent; all others were. Of a group, some tasks may have been.
    """
    results: list[Any] = []
    chunk: list[asyncio.Future[AsyncResult[Any]]] = []
    for signature in signatures:
        if not isinstance(signature, Signature) or signature.get("subtask_type") not in (None, "group"):
            raise TypeError(f"publish_many() takes signatures of tasks and groups, not {signature!r:.200}")
        chunk.append(_outgoing(signature.app).put(_sender(signature)))
        if len(chunk) == 2 * BATCH:
            results += await asyncio.gather(*chunk, return_exceptions=True)
            chunk.clear()
    results += await asyncio.gather(*chunk, return_exceptions=True)
    if errors := [result for result in results if isinstance(result, Exception)]:
        raise ExceptionGroup(f"{len(errors)} of {len(results)} tasks could not be sent", errors)
    return results


async def send(
    app: Any, apply_async: Callable[..., AsyncResult[Any]], args: Any, kwargs: Any, options: dict[str, Any]
) -> AsyncResult[Any]:
    """Send one task, with whatever else is sent at this moment."""
    if app.conf.task_always_eager or options.keys() & {"producer", "connection", "publisher"}:
        return await off_loop_async(apply_async, args, kwargs, **options)
    options = {"task_id": uuid(), **options}
    return await _outgoing(app).put(functools.partial(apply_async, args, kwargs, **options))


def _sender(signature: Signature[Any]) -> Callable[..., Any]:
    """Return what sends a signature, under the same ids when it is called again."""
    if isinstance(signature, group):
        return _Group(signature)
    return functools.partial(signature.apply_async, **_names(signature))


def _names(signature: Any) -> dict[str, Any]:
    """Return the options that make a message the same one, however often it is sent."""
    given = signature["options"]
    names = {"task_id": given.get("task_id") or uuid()}
    if signature["task"] == RUN_ITERATE:
        names["headers"] = with_message_name(given.get("headers"))
    return names


class _Group:
    """Sends a group."""

    def __init__(self, signature: group) -> None:
        self._signature: Any = signature
        self._with_ids: Any = None

    def __call__(self, **options: Any) -> Any:
        if self._with_ids is None:  # of thousands: on an I/O thread
            self._with_ids = _with_ids(self._signature)
        return self._with_ids.apply_async(**options)


def _with_ids(signature: Any) -> Any:
    """Return a copy in which every task has its id: Celery gives new ones each time, and freezing changes the order."""
    copied: Any = Signature.from_dict(signature, app=getattr(signature, "app", None)).clone()
    kind = copied.get("subtask_type")
    for name in {"group": ["tasks"], "chain": ["tasks"], "chord": ["header", "body"]}.get(kind, ()):
        part = copied["kwargs"][name]
        fixed = [_with_ids(each) for each in part] if name == "tasks" else _with_ids(part)
        copied["kwargs"] = {**copied["kwargs"], name: fixed}
    if kind not in ("chain", "chord"):
        copied["options"] = {**copied["options"], **_names(copied)}
    return copied


@dataclass(eq=False)
class _Call:
    apply_async: Callable[..., AsyncResult[Any]]
    future: asyncio.Future[AsyncResult[Any]]
    #: Who sends it: the task that becomes its parent is found by context.
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class _Producer(Producer):
    """Looks whether a queue is declared before it copies it: kombu's copies it to look, for each message."""

    def maybe_declare(self, entity: Any, *args: Any, **kwargs: Any) -> Any:
        connection: Any = self.connection
        if connection is not None and entity.can_cache_declaration and hash(entity) in connection.declared_entities:
            return False
        return super().maybe_declare(entity, *args, **kwargs)


class _ProducerPool(ProducerPool):
    Producer = _Producer


class _Outgoing:
    """Outgoing messages of one app on one loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._producers: Any = None
        self._calls: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None

    def put(self, apply_async: Callable[..., AsyncResult[Any]]) -> asyncio.Future[AsyncResult[Any]]:
        loop = asyncio.get_running_loop()
        call = _Call(apply_async, loop.create_future())
        self._calls.append(call)
        if self._sending is None:
            self._sending = loop.create_task(self._send(), name="asyncworker-publish", context=contextvars.Context())
        return call.future

    async def _send(self) -> None:
        try:
            while self._calls:
                calls = [self._calls.popleft() for _ in range(min(BATCH, len(self._calls)))]
                try:
                    outcomes = await off_loop_async(self._send_batch, calls)
                except Exception as exc:  # no connection at all
                    outcomes = [exc] * len(calls)
                for call, outcome in zip(calls, outcomes, strict=True):
                    _settle(call.future, outcome)
        finally:
            self._sending = None

    def _send_batch(self, calls: list[_Call]) -> list[Any]:
        """Send them, on an I/O thread; returns a result or an exception for each."""
        connections = self._app.pool
        if self._producers is None or self._producers.connections is not connections:  # new after a fork or app.close()
            self._producers = _ProducerPool(connections, connections.limit)
        with self._producers.acquire(block=True) as producer:
            many = len(calls) > 1 or isinstance(calls[0].apply_async, _Group)
            batch = producer.batch(BATCH) if many and hasattr(producer, "batch") else contextlib.nullcontext()
            try:
                with batch:
                    return _attempts(calls, producer)
            except _BatchPublishError:
                # Nobody knows which of them have arrived. One by one, then, and retried: as with Celery's own retries,
                # a message whose answer was lost can come twice, under the same task id.
                return _attempts(calls, producer)


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Outgoing]] = weakref.WeakKeyDictionary()


def _outgoing(app: Any) -> _Outgoing:
    of_loop = _by_loop.setdefault(asyncio.get_running_loop(), {})
    return of_loop.get(id(app)) or of_loop.setdefault(id(app), _Outgoing(app))


def _attempts(calls: list[_Call], producer: Any) -> list[Any]:
    outcomes: list[Any] = []
    for call in calls:
        try:
            outcomes.append(call.context.run(call.apply_async, producer=producer))
        except _BatchPublishError:
            raise
        except OperationalError as exc:
            # The broker is away, after Celery's retries: the others need not find that out by theirs.
            return [*outcomes, *[exc] * (len(calls) - len(outcomes))]
        except Exception as exc:
            outcomes.append(exc)
    return outcomes


def _settle(future: asyncio.Future[AsyncResult[Any]], outcome: Any) -> None:
    if future.done():  # whoever waited has gone
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
