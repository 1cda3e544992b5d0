"""Celery's consumer; remote control reaches what runs until its end, and acknowledgements do not wait for the hub."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from amqp.exceptions import AccessRefused, NotAllowed, NotFound, PreconditionFailed, ResourceLocked
from celery import bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered, WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import consumer as stock
from celery.worker.consumer import consumer as stock_module
from celery.worker.request import Request
from celery.worker.state import active_requests, reserved_requests, task_ready, task_reserved
from kombu.utils.encoding import safe_repr
from vine import promise

from asyncworker.redis_refusals import PAUSE_S, RefusedForNow
from asyncworker.settings import load_settings
from asyncworker.worker.containment import is_broker_error
from asyncworker.worker.copies import Copies, NotedSettlement
from asyncworker.worker.dead_letters import bury, letter_of
from asyncworker.worker.failures import TraceInfo
from asyncworker.worker.persist import log_wait
from asyncworker.worker.wellformed import objection

__all__ = ["Consumer"]

logger = logging.getLogger(__name__)

#: Of a header, in the log.
LONGEST_SHOWN = 1000

_ACKNOWLEDGEMENTS = frozenset({"ack_log_error", "reject_log_error"})


#: For mypy, which knows half of its attributes.
_StockConsumer: Any = stock.Consumer
_stock_module: Any = stock_module
_RUN: Any = bootsteps.RUN  # type: ignore[attr-defined]


class Consumer(_StockConsumer):  # type: ignore[misc]
    """It has the stock class's name, which receivers of signals see."""

    #: The step for remote control, which sets it.
    remote_control: Any

    class Blueprint(_StockConsumer.Blueprint):  # type: ignore[misc]
        """Its steps."""

        default_steps = tuple(
            "asyncworker.worker.pidbox:Control" if step == "celery.worker.consumer.control:Control" else step
            for step in _StockConsumer.Blueprint.default_steps
        )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if hasattr(self.pool, "fetch_more"):
            self.pool.fetch_more = self._fetch_more
        self._collects_acks = getattr(self.conninfo.get_transport_cls(), "collects_acks", False)
        #: A queue's node may be down, the queue not declared yet, or held by a connection that is about to be cut.
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            NotFound,
            ResourceLocked,
        )
        self._copies = Copies(self)
        self._limits_reported = False
        self._retiring = False
        #: Timers of rate limits, each for the next token of a bucket.
        self._token_timers: dict[Any, Any] = {}
        #: Strategies take this name when they are made, and timers of an eta and of rate limits call it.
        self.on_task_request = self._take_request

    def start(self) -> None:
        """Consume until the worker ends.

        Raises:
            WorkerShutdown: The broker refuses what the worker needs: access, or a queue with other arguments.
        """
        try:
            super().start()
        except (AccessRefused, PreconditionFailed) as exc:
            logger.critical("the broker refuses what this worker needs, and would do so again; ending: %s", exc)
            raise WorkerShutdown(EX_FAILURE) from exc

    # -- a successor ---------------------------------------------------------------------------------------------

    def rename(self, hostname: str) -> None:
        """Leave the node name to a successor: be reached, and send events, under another one."""
        self.hostname = hostname
        if self.event_dispatcher is not None:
            self.event_dispatcher.hostname = hostname
        self.remote_control.rename(self, hostname)

    def retire(self) -> None:
        """Take nothing more, and give back what has not started. What runs goes on, also through a reconnect."""
        self._retiring = True
        self.remote_control.retire()
        queues = list(self.app.amqp.queues.consume_from)
        # First of all for the next connection: this one may be about to be lost.
        for queue in queues:
            self.app.amqp.queues.deselect(queue)
        for queue in queues:
            self.task_consumer.cancel_by_queue(queue)
        self.pool.retire()
        waiting = self._not_started()
        for request in waiting:
            request.reject(requeue=True)
            task_ready(request)
        logger.info(
            "%s retires: %d tasks return to the queue, %d run to their end",
            self.hostname,
            len(waiting),
            self.pool.in_flight,
        )

    def _not_started(self) -> list[Any]:
        """Return, and forget, the requests that wait for a slot, a rate limit or their time."""
        for timer in self._token_timers.values():
            timer.cancel()
        for entry in list(self.timer.schedule.queue):
            if entry.entry.args and isinstance(entry.entry.args[0], Request):
                entry.entry.cancel()
                reserved_requests.add(entry.entry.args[0])
        return [request for request in list(reserved_requests) if request not in active_requests]

    def _fetch_more(self, count: int) -> None:
        if count > 0:
            self.qos.increment_eventually(count)
        else:
            self.qos.decrement_eventually(-count)

    def update_strategies(self) -> None:
        """Make tracers as Celery does, by what may have taken the place of its function; their failures cost less."""
        super().update_strategies()
        for name, task in self.app.tasks.items():
            task.__trace__ = _stock_module.build_tracer(
                name, task, self.app.loader, self.hostname, app=self.app, Info=TraceInfo
            )

    def _schedule_bucket_request(self, bucket: Any) -> None:
        """Begin what a rate limit lets through, in order, and set one timer for the next token.

        Celery sets one for each task that waits; each sets the next, and of more than ten that are due together the hub
        leaves the others for a second.
        """
        if bucket in self._token_timers:
            return
        while bucket.contents and not self._retiring:
            request, tokens = bucket.contents[0]
            if not bucket.can_consume(tokens):
                wait_s = bucket.expected_time(tokens)
                self._token_timers[bucket] = self.timer.call_after(wait_s, self._next_token, (bucket,))
                return
            bucket.pop()
            self._limit_move_to_pool(request)

    def _next_token(self, bucket: Any) -> None:
        self._token_timers.pop(bucket, None)
        self._schedule_bucket_request(bucket)

    def add_task_queue(self, queue: Any, *args: Any, **options: Any) -> None:
        """Consume from one more queue; not where the worker was told to end in between."""
        if self.blueprint.state == _RUN and not self._retiring:
            super().add_task_queue(queue, *args, **options)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Connect again; to a server that cannot take what a consumer declares, or has no such vhost, in a moment."""
        if isinstance(exc, RefusedForNow | NotAllowed):
            log_wait("starting to consume", exc)
            time.sleep(PAUSE_S)
        else:
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same for a connection that was there."""
        if isinstance(exc, RefusedForNow | NotFound | ResourceLocked):
            time.sleep(PAUSE_S)
        super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Forget what was received, but not what runs: it can be revoked after a reconnect, and while it drains."""
        super().on_close()
        for timer in self._token_timers.values():
            timer.cancel()
        self._token_timers.clear()
        active = tuple(active_requests)
        self._copies.connection_lost([request.message for request in active])
        for request in active:
            task_reserved(request)

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now where the transport collects that: it costs no round trip, and need not wait for the hub.

        The pool calls a request only on the main thread, which is the hub's.
        """
        if self._collects_acks and self.hub is not None and getattr(p, "__name__", "") in _ACKNOWLEDGEMENTS:
            return p(*args, **kwargs)
        return super().call_soon(p, *args, **kwargs)

    def create_task_handler(self) -> Any:
        """Return what takes a message; each makes two promises, which are kept small. No message makes it raise."""
        handle = super().create_task_handler(promise=self._promise)
        self._report_delivery_limits()

        def on_message(message: Any) -> None:
            try:
                reason = objection(message)
                if reason is None:
                    if not self._copies.takes(message):
                        handle(message)
                else:
                    self.on_invalid_task(None, message, InvalidTaskError(reason))
            except Exception as exc:
                if is_broker_error(exc, self.connection):
                    raise
                self.on_invalid_task(None, message, exc)

        return on_message

    def _report_delivery_limits(self) -> None:
        """Log the queues whose broker drops a message before ``max_deliveries`` is reached; once a worker."""
        limits = getattr(self.task_consumer.channel, "delivery_limits", {})
        if self._limits_reported or not limits:
            return
        self._limits_reported = True
        settings = load_settings(conf=self.app.conf)
        for queue, limit in limits.items():
            if 0 < limit <= settings.max_deliveries:
                logger.warning(
                    "queue %s: its delivery limit (%d) is not above max_deliveries (%d); "
                    "late-ack tasks are given up on the last delivery that it allows",
                    queue,
                    limit,
                    settings.max_deliveries,
                )
            elif not limit:
                logger.warning(
                    "queue %s: its delivery limit is 0; the broker drops a late-ack task whose worker dies", queue
                )

    # -- messages that cannot be run -----------------------------------------------------------------------------

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Do as Celery does; the message goes to the dead letters, here and below."""
        self._give_up(super().on_decode_error, message, exc, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """The same for what is no task."""
        exc = InvalidTaskError("not a message of a task")
        self._give_up(functools.partial(super().on_unknown_message, body), message, exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The same for a task that this worker does not have."""
        self._give_up(functools.partial(super().on_unknown_task, body), message, NotRegistered(*exc.args), exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The same for what cannot become a request."""
        self._give_up(functools.partial(super().on_invalid_task, body), message, exc, exc)

    def _give_up(self, report: Callable[..., Any], message: Any, exc: Exception, *args: Any) -> None:
        held = Unsettled(message)
        try:
            report(held, *args)
        except Exception:
            logger.exception("a message that cannot be run could not be reported in Celery's way")
        bury(letter_of(message, exc), functools.partial(held.settle, self.connection_errors))

    def _take_request(self, request: Any) -> None:
        """Run a request once a slot is free: Celery's ``process_task``, whatever goes wrong in it."""
        semaphore = self.controller.semaphore
        if semaphore is None:
            self._process(request)
        else:
            semaphore.acquire(self._process, request)

    def _process(self, request: Any) -> None:
        if self._retiring:  # it was given back
            return
        try:
            self.controller._process_task(request)
        except Exception as exc:
            if is_broker_error(exc, self.connection):
                raise
            with contextlib.suppress(Exception):
                task_ready(request)
            if self.controller.semaphore is not None:
                self.controller.semaphore.release()
            self.on_invalid_task(None, request.message, exc)

    def _promise(self, call_soon: Any, args: tuple[Any], on_error: Callable[..., Any]) -> Any:
        if self.restart_count > 0 and not self._maximum_prefetch_restored:
            # Something more is to follow them then.
            return promise(call_soon, (NotedSettlement(args[0]),), on_error=on_error)
        return _Settlement(self, args[0])


class Unsettled:
    """A message that Celery settles when it reports it; the broker hears of that once its dead letter is stored."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self._settle: Callable[..., Any] = message.ack_log_error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    @property
    def headers(self) -> Any:
        """Its headers, as the log is to have them: some are larger than any log should be."""
        headers = self._message.headers
        if not isinstance(headers, dict):
            return headers
        return {name: _shortened(value) for name, value in headers.items()}

    def ack(self, **_options: Any) -> None:
        """Acknowledge it later."""

    def reject_log_error(self, _logger: Any, _errors: Any, **_options: Any) -> None:
        """Reject it later; a broker may have somewhere to put it."""
        self._settle = self._message.reject_log_error

    def settle(self, errors: tuple[type[Exception], ...]) -> None:
        """Do it now."""
        if not self._message.acknowledged:
            self._settle(logger, errors)


def _shortened(value: Any) -> Any:
    shown = value if isinstance(value, str) else safe_repr(value)
    return value if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}... ({len(shown):,} characters)"


class _Settlement:
    """Callback that settles a message: a promise of ``call_soon``, in a tenth of the memory."""

    __slots__ = ("_consumer", "_message", "_name")

    def __init__(self, consumer: Any, settle: Any) -> None:
        self._consumer = consumer
        self._message = settle.__self__
        self._name = settle.__name__

    def __call__(self, *args: Any) -> Any:
        settle = getattr(self._message, self._name)
        NotedSettlement.note(self._message, self._name, bool(args[2:] and args[2]))
        try:
            return self._consumer.call_soon(settle, *args)
        except Exception as exc:
            return self._consumer._restore_prefetch_count_after_connection_restart(settle, exc)
