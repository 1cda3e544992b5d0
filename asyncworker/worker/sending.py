"""Sending what a task has earned: what follows it reaches the broker, however long that is away.

Links, the next task of a chain, a chord's body, errbacks, a retry and a replacement are sent by Celery's tracer and
result backend. Whatever goes wrong there is waited out, unless the message itself proves to be wrong: a failure would
be the task's own, and an acknowledged task would be lost with all that follows. What the code of a task sends by itself
raises there after Celery's usual retries, and is its own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import amqp
from amqp.serialization import dumps as dump_amqp
from celery.result import AsyncResult
from celery.utils import uuid
from kombu import Producer
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps as dump_json

from asyncworker.loop import current_job, in_bridge, off_loop, off_loop_async, on_loop_thread
from asyncworker.worker.containment import is_broker_error
from asyncworker.worker.job import Job
from asyncworker.worker.persist import log_wait, until_done, waits, waits_for_server

__all__ = [
    "NotSent",
    "Posting",
    "apost",
    "earned",
    "in_backend",
    "in_hook",
    "of_loop",
    "post",
    "send_task",
    "sends_what_is_earned",
]

logger = logging.getLogger(__name__)

#: Whether the running code sends what a task has earned. Set by whoever runs a tracer; the task's own code resets it.
earned: contextvars.ContextVar[bool] = contextvars.ContextVar("asyncworker_earned", default=False)

#: Whether a hook or a receiver of the user's runs, which may wait for the results of what it sends.
in_hook: contextvars.ContextVar[bool] = contextvars.ContextVar("asyncworker_in_hook", default=False)

#: The method of Celery's backend that runs. A failure's errbacks are called by it, as plain functions: those of the
#: tasks in ``link_error`` that take ``(request, exc, traceback)``.
in_backend: contextvars.ContextVar[str] = contextvars.ContextVar("asyncworker_in_backend", default="")

#: Takes what the broker does not: whoever has set it sends that later. ``None``: the thread itself waits.
_kept: contextvars.ContextVar[deque[_Message] | None] = contextvars.ContextVar("asyncworker_kept", default=None)

#: So often a message fails in the same way, over connections of its own, until that is the message's fault.
PROVED_BY = 3


class NotSent(OperationalError):
    """The broker did not take a message, for a reason that is not the message's."""


class Posting:
    """A call that sends messages, to be repeated until the broker has taken all of them.

    The call itself runs to its end once: what the broker does not take is kept, and sent by the next attempts. So no
    thread, no producer and no half of a group waits for the broker.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._done = False
        self._value: Any = None
        self._kept: deque[_Message] = deque()

    def __call__(self) -> Any:
        """Make the call, or send what it has left.

        Raises:
            NotSent: Something is left.
        """
        if not self._done:
            self._kept.clear()
            tokens = earned.set(True), _kept.set(self._kept)
            try:
                self._value = self._call()
            finally:
                earned.reset(tokens[0])
                _kept.reset(tokens[1])
            self._done = True
        while self._kept:
            self._kept[0].send()
            self._kept.popleft()
        return self._value


def post(call: Callable[[], Any], leave: Callable[[Callable[[], Any]], Any] = off_loop) -> Any:
    """Make a call that sends what the running job has earned; returns once the broker has it. In a bridge.

    Args:
        call: Sends it.
        leave: As of `until_done`.
    """
    return until_done(Posting(call), _is_not_sent, f"sending what follows {current_job.get()}", leave)


async def apost(call: Callable[[], Any], what: str) -> Any:
    """Make such a call from a coroutine, which can be cancelled meanwhile."""
    posting = Posting(call)
    for wait_s in waits():
        try:
            return await off_loop_async(posting)
        except NotSent as exc:
            log_wait(what, exc)
        await asyncio.sleep(wait_s)
    raise AssertionError("not reached")


@contextlib.contextmanager
def sends_what_is_earned() -> Any:
    """Have what is sent inside reach the broker, as what follows a task does."""
    token = earned.set(True)
    try:
        yield
    finally:
        earned.reset(token)


def _is_not_sent(exc: Exception) -> bool:
    return isinstance(exc, NotSent)


def of_loop(result: Any) -> Any:
    """Give a result that was made on an I/O thread the backend of the loop's, which leaves the loop where it blocks."""
    if on_loop_thread() and isinstance(result, AsyncResult):
        result.backend = result.app.backend
    return result


def send_task(app: Any, stock: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Send a task by its name, as ``app.send_task``, which every other way to send one ends in.

    Args:
        app: The app.
        stock: Celery's own.
        args: Those of that.
        options: Likewise.
    """
    if not earned.get():
        return of_loop(off_loop(stock, *args, **options))
    message = _Message(app, stock, args, options)
    if in_bridge():
        return post(message.send)
    job = current_job.get()
    if on_loop_thread():
        if not isinstance(job, Job):
            return message.send()
        # A retry out of a child task, which may not wait: it is sent when the job's code has ended.
        job.unsent.append(message.send)
        return message.result
    kept = _kept.get()
    if kept:
        kept.append(message)  # the broker does not even take the one before
        return message.result
    try:
        return message.send()
    except NotSent:
        if kept is None:
            return _send_here(message, job if isinstance(job, Job) else None)
        kept.append(message)
        return message.result


def _send_here(message: _Message, job: Job | None) -> Any:
    """Send, and have this thread wait meanwhile: it is the job's own, or one of those for what must not go on before.

    A chord is forgotten by its backend as soon as its body was sent, or failed to be: that is waited for even where the
    job was abandoned, until the process ends.
    """
    with waits_for_server(job):
        for wait_s in waits():
            time.sleep(wait_s)
            try:
                return message.send()
            except NotSent as exc:
                if job is not None and job.abandoned and not in_backend.get():
                    raise
                log_wait(str(message), exc)
    raise AssertionError("not reached")


class _Message:
    """One message; every attempt sends it under the same id.

    An attempt whose answer is lost may have arrived: then the message comes twice, as with Celery's own retries.
    """

    def __init__(self, app: Any, stock: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        # A producer that was acquired for a whole group may have been closed since.
        options = {name: value for name, value in options.items() if name not in ("producer", "publisher")}
        options["task_id"] = options.get("task_id") or uuid()
        self._app = app
        self._send = functools.partial(stock, *args, **options)
        self._name = str(args[0] if args else options.get("name"))
        self._id = options["task_id"]
        self._earner = current_job.get()
        self._backend_call = in_backend.get()
        self._proved = False
        self._failures_alone: Counter[str] = Counter()

    def __str__(self) -> str:
        return f"sending {self._name} for {self._earner}"

    @property
    def result(self) -> Any:
        """Result object that Celery gives to the sender."""
        return self._app.AsyncResult(self._id)

    def send(self) -> Any:
        """Send it, with Celery's own retries.

        Raises:
            NotSent: It was not sent; nothing is wrong with it.
            Exception: What is wrong with it.
        """
        try:
            return self._attempt()
        except Exception as exc:
            failed = exc
        wrong = failed if _refuses_message(failed) else self._prove()
        if wrong is None and self._says_nothing_of_broker(failed):
            try:
                return self._attempt_alone()
            except Exception as exc:
                failed = exc
                wrong = exc if self._is_proved_by(exc) else None
        if wrong is None:
            raise NotSent(f"{type(failed).__name__}: {failed}") from failed
        if self._backend_call == "mark_as_failure":
            # An errback: its failure's outcome is stored, and must not become another one.
            logger.error("%s: the errback %s cannot be sent: %r", self._earner, self._name, wrong)
            return self.result
        raise wrong from (None if wrong is failed else failed)

    def _attempt(self) -> Any:
        with self._app.producer_pool.acquire(block=True) as producer:
            try:
                return self._send(producer=producer)
            except Exception:
                _renew_connection(producer)
                raise

    def _attempt_alone(self) -> Any:
        """Send it over a connection that no other thread can have closed."""
        with self._app.connection_for_write() as connection:
            return self._send(producer=Producer(connection))

    def _says_nothing_of_broker(self, exc: Exception) -> bool:
        connection = self._app.producer_pool.connections.connection
        return not (isinstance(exc, OperationalError) or is_broker_error(exc, connection))

    def _is_proved_by(self, exc: Exception) -> bool:
        """Tell whether a message is wrong that has failed alone: every time in one way, which is not the broker's."""
        if not self._says_nothing_of_broker(exc):
            self._failures_alone.clear()
            return False
        self._failures_alone[repr(exc)] += 1
        return self._failures_alone[repr(exc)] >= PROVED_BY

    def _prove(self) -> Exception | None:
        """Return what is wrong with the message: it is made once more, and given to nobody."""
        if not self._proved:
            try:
                self._send(producer=_Proof(self._app.producer_pool.connections.connection), add_to_parent=False)
            except Exception as exc:
                return exc
            self._proved = True
        return None


#: For mypy, which knows half of its attributes.
_StockProducer: Any = Producer


class _Proof(_StockProducer):  # type: ignore[misc]
    """A producer that makes a message as others do, and sends nothing."""

    def __init__(self, connection: Any) -> None:
        super().__init__(None, auto_declare=False)
        self.__connection__ = connection

    def publish(self, body: Any, **options: Any) -> Any:
        """Encode what is sent."""
        # Whatever a user's retry policy says: there is nothing to try again.
        return super().publish(body, **{**options, "retry": False})

    def _publish(self, *made: Any, **_options: Any) -> None:
        _body, _priority, _content_type, _content_encoding, headers, properties = made[:6]
        if self.__connection__.transport.driver_type == "amqp":
            dump_amqp("FF", (headers, {name: value for name, value in properties.items() if value is not None}))
        else:
            dump_json([headers, properties])


def _renew_connection(producer: Any) -> None:
    """Have a producer connect anew: its channel may be one that was closed under it."""
    connection = producer.__connection__
    if connection is None:
        return
    with contextlib.suppress(Exception):
        connection.collect()
    with contextlib.suppress(Exception):
        producer.revive(connection)


def _refuses_message(exc: BaseException | None) -> bool:
    """Tell whether a broker has refused a message for itself: it is too large, or leads nowhere."""
    while exc is not None:
        if isinstance(exc, amqp.AMQPError):
            code, said = exc.reply_code, str(exc.reply_text).lower()
            too_large = code == amqp.PreconditionFailed.code and "message size" in said
            return too_large or code in (amqp.ContentTooLarge.code, _NO_ROUTE)
        exc = exc.__cause__
    return False


#: The code with which a message that is mandatory comes back.
_NO_ROUTE = 312
