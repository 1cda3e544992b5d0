"""One Celery task in the pool: from the message's acceptance to its settlement."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery.app.task import Context
from celery.worker.request import Request

from asyncworker.loop import Interrupt, LiveJob
from asyncworker.worker.message import Message

__all__ = ["Job", "JobLeases", "Reports", "SoftTimeLimitReached", "decoded", "headers_settled", "request_of"]

#: Those with which a request calls the tracer.
_TRACER_ARGUMENTS = ("task", "uuid", "request", "body", "content_type", "content_encoding")

#: What a request takes from a message's headers as its own; whatever else is there, the sender has added.
_CELERYS_HEADERS = frozenset(vars(Context)) | {"lang", "task", "argsrepr", "kwargsrepr", "compression"}

#: Pseudo process ids, above the kernel's highest (2**22), so that ``terminate_job`` hits one job and no process.
_pids = itertools.count((1 << 22) + 1)


class SoftTimeLimitReached(asyncio.CancelledError, SoftTimeLimitExceeded):
    """The soft limit on its way through a coroutine.

    Both bases are needed: as a cancellation it passes through ``TaskGroup``, ``wait_for`` and ``timeout()`` as itself,
    and ``except SoftTimeLimitExceeded`` catches it.
    """


class Reports(NamedTuple):
    """Callbacks by which a pool reports on a task; a Celery request has methods of these names."""

    on_accepted: Callable[[int, float], None]
    on_success: Callable[..., Any]
    on_failure: Callable[[ExceptionInfo], Any]
    on_timeout: Callable[[bool, float], None]


class JobLeases(Protocol):
    """Where a process keeps its jobs' leases, as the tracer asks for them."""

    def is_due(self, job: Job) -> bool:
        """Tell whether a job has run for so long that it needs a lease."""

    async def still_held(self, job: Job) -> bool:
        """Tell whether this process still holds a job's lease, in the store."""


class Backlog(Protocol):
    """Where the failures of a process's jobs are counted while they wait."""

    def waiting(self) -> AbstractContextManager[None]:
        """Count one of them."""


class Job(LiveJob):
    """Task in flight in the pool; also the apply result that Celery's ``Request`` references weakly.

    Attributes:
        request: Is told what becomes of it.
        pid: The pseudo process id that Celery knows it by.
        late: Its message is acknowledged when it has ended, and comes again if that takes too long.
        returned: Its message may have returned to its queue, with the connection that it came by.
        leased: This process holds its lease, or is about to.
        backlog: Where its failure is counted while it waits; ``None`` on a thread.
        settled: Its code has ended; no lease is taken for it any more.
        leases: Where its lease is kept; ``None`` where it never has one.
        finished: Its outcome counts, and no delivery of its message is to be run again.
        stored_before_retry: Its result's document before its next attempt was sent; ``None`` while none was.
        resumes: It is a fan-out that was begun before; it does not expire any more.
        counted: Its beginning was counted, and is to be forgotten when it ends.
        succeeded: It came to its end, and that was no failure.
        lost: Another process has taken it over; its delivery goes back to the queue, in case that one dies.
        started: Its code was given to the loop or to a thread, or waits at the gate.
        let_through: It has passed the gate.
        abandoned: Its outcome was already reported (hard limit, revoked); what it still returns is ignored.
        terminated: It was cancelled by revoke.
        timers: Its hard time limit, of the main thread.
        soft_timer: Its soft time limit, of the loop.
        soft_limit_due: That limit has passed while no code of its body ran.
        servers_awaited: How many calls wait for servers to store, and send, what it has come to.
        unsent: Sends what its child tasks have left to be sent when its code has ended.
        errbacks: What its failure has called.
        outcome: How its run has ended, once that is stored; empty before.
    """

    __slots__ = (
        "abandoned",
        "args",
        "backlog",
        "counted",
        "errbacks",
        "finished",
        "interrupt",
        "late",
        "leased",
        "leases",
        "let_through",
        "lost",
        "outcome",
        "pid",
        "request",
        "resumes",
        "returned",
        "servers_awaited",
        "settled",
        "soft_limit_due",
        "soft_timeout_s",
        "soft_timer",
        "started",
        "stored_before_retry",
        "succeeded",
        "target",
        "terminated",
        "timeout_s",
        "timers",
        "unsent",
    )

    def __init__(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        request: Reports,
        *,
        soft_timeout_s: float | None,
        timeout_s: float | None,
    ) -> None:
        super().__init__(id=args[1], name=args[0])
        self.pid = next(_pids)
        self.target = target
        self.args = args
        self.request = request
        self.soft_timeout_s = soft_timeout_s
        self.timeout_s = timeout_s
        self.interrupt = Interrupt()
        self.started = False
        self.let_through = False
        self.succeeded = False
        self.lost = False
        self.counted = False
        self.resumes = False
        self.late = False
        self.returned = False
        self.leased = False
        self.settled = False
        self.leases: JobLeases | None = None
        self.backlog: Backlog | None = None
        self.finished = False
        self.stored_before_retry: bytes | None = None
        self.abandoned = False
        self.terminated = False
        self.timers: tuple[Any, ...] = ()
        self.soft_limit_due = False
        self.soft_timer: asyncio.TimerHandle | None = None
        self.outcome = ""
        self.servers_awaited = 0
        self.unsent: list[Callable[[], Any]] = []
        self.errbacks: tuple[Future[Any], ...] = ()

    @property
    def redelivered(self) -> bool:
        """Whether the broker has delivered its message before."""
        return bool((self.args[2].get("delivery_info") or {}).get("redelivered"))

    async def is_held(self) -> bool:
        """Return whether no other process has taken it over; asks the store where that could be."""
        if self.lost or self.leases is None or not self.leases.is_due(self):
            return not self.lost
        return await self.leases.still_held(self)

    async def wait_for_errbacks(self) -> None:
        """Wait for what its failure has called: it is part of the job. On the loop."""
        await asyncio.gather(*map(asyncio.wrap_future, self.errbacks), return_exceptions=True)

    @property
    def message(self) -> Any:
        """Its message; ``None`` where the request is not Celery's."""
        return getattr(self.request, "message", None)

    def terminate(self, signal: int | None = None) -> None:
        """Called by Celery after ``pool.terminate_job``, which has done it."""

    def disarm_on_loop(self) -> None:
        """Cancel its soft time limit. On the loop's thread: its timers belong to it."""
        if self.soft_timer is not None:
            self.soft_timer.cancel()
            self.soft_timer = None

    def disarm(self) -> None:
        """Cancel its hard time limit. On the main thread."""
        for timer in self.timers:
            timer.cancel()
        self.timers = ()


def request_of(reports: tuple[Callable[..., Any] | None, ...]) -> Reports:
    """Return the request whose methods they are, in the place of them; them, where they are not those of one.

    Args:
        reports: In the order of :class:`Reports`; ``None`` for one that is not wanted.
    """
    accepted, succeeded, failed, timed_out = reports
    request: Any = getattr(succeeded, "__self__", None)
    if isinstance(request, Request):
        stock: Any = request
        of_request = accepted == stock.on_accepted and succeeded == stock.on_success
        if of_request and failed == stock.on_failure and timed_out == stock.on_timeout:
            return stock  # type: ignore[no-any-return]
    return Reports(*(call or _ignore for call in reports))


def headers_settled(fields: dict[str, Any]) -> None:
    """Spare the tracer the search for headers of the sender's own where a message has none.

    It looks for them where a request has no ``headers``, in a fortieth of the time that a task takes. Once the body is
    about to run, they are ``None`` again.
    """
    if "headers" not in fields and fields.keys() <= _CELERYS_HEADERS:
        fields["headers"] = {}


def decoded(args: tuple[Any, ...], request: Reports) -> tuple[Any, ...]:
    """Give the tracer the arguments as the request has decoded them: it takes a body that is decoded, too.

    A tracer in another process has to decode them itself.
    """
    if not isinstance(request, Request) or len(args) != len(_TRACER_ARGUMENTS) or not args[-2]:
        return args
    stock: Any = request
    payload = stock._payload
    if isinstance(stock.message, Message):
        # Celery has copied them into the request, and adds to that.
        stock.message.headers = stock.request_dict
        # What a request keeps that was given its body decoded.
        stock._body, stock._decoded = payload, True
        stock._content_type = stock._content_encoding = None
        stock.message.let_go_of_body()
    return (*args[:3], payload, None, None)


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """Whoever calls the pool does not want to know."""
