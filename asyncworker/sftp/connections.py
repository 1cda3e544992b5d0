"""Which sessions live, which are being made, and who waits for a place on one. One loop, no locks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Protocol

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import (
    SettingsError,
    SFTPAuthError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPHostKeyError,
)
from asyncworker.sftp.bandwidth import Bandwidth
from asyncworker.sftp.easing import Easing
from asyncworker.sftp.login_gate import FIRST_LOGIN, LOGIN_GATE, open_gate
from asyncworker.sftp.open_files import OPEN_FILES, OpensFiles, Ticket
from asyncworker.sftp.options import Options
from asyncworker.sftp.session import Session
from asyncworker.sftp.ssh_target import timed
from asyncworker.sftp.traffic import Traffic
from asyncworker.sftp.transports import Connect, ConnectionDropped

__all__ = ["CLEAN_UP_S", "Ask", "Connections", "Job"]

logger = logging.getLogger(__name__)

#: Connections that are being made at the same time, at most: OpenSSH drops some of more than ten (MaxStartups).
_RAMP = 8
#: Jobs on one connection before another one is worth opening.
_JOBS_BEFORE_NEXT = 32
#: Tries of one connection where the server dropped it during the handshake, as MaxStartups does.
_TRIES = 6
#: How long those that were stopped may take to leave nothing behind: two round trips, and what is on its way before.
CLEAN_UP_S = 10.0
#: Places that there are whatever ``in_flight`` says: whoever has a file open may have to ask something beside it.
_PLACES_MIN = 8


#: Asks what a login lacks; returns options to try again with, or ``None``.
Ask = Callable[[Options, SFTPConnectError], Awaitable[Options | None]]


class Job(Protocol):
    """Operation that occupies a place on a session."""

    def start(self, session: Session) -> None:
        """Begin; the place is the job's until it calls :meth:`Connections.release`."""

    def fail(self, error: Exception) -> None:
        """Take that there will be no session, or that this one is not to be used any more."""

    def abandon(self) -> None:
        """Stop, clean up, and give the place back."""


class Held(Protocol):
    """A job that keeps its place until its caller goes on, who may wait for another place meanwhile."""

    def hurry(self) -> None:
        """Give the place back without waiting for the caller."""


class Connections:
    """The connections to one server.

    They are made as the load needs them. One that cannot be made lowers their number for a while, not the job; only
    when none lives does its error reach those who wait.
    """

    def __init__(
        self, options: Options, connect: Connect, clock: Clock = SYSTEM_CLOCK, *, ask: Ask | None = None
    ) -> None:
        self._options = options
        self._ask = ask
        self._connect = connect
        self._clock = clock
        self._sessions: list[Session] = []
        self._making: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()  # of connections that are lost
        self._waiting: OrderedDict[Job, None] = OrderedDict()  # in order, and any of them leaves in O(1)
        self._held: set[Held] = set()
        rate = options.max_bytes_per_s
        bandwidth = None if rate is None else Bandwidth(rate, clock)
        self._traffic = Traffic(options.in_flight, options.window_bytes, bandwidth)
        self._easing = Easing(options, self._traffic, clock)
        self._logged_in = False  # whether the server has ever let us in
        self._login: asyncio.Future[None] | None = None  # of the first one, while it is being made
        self._least = 0  # that were wanted before that
        self._running: dict[Job, None] = {}
        self._descriptors: dict[Job, int] = {}  # that running jobs have taken
        self._parked: dict[Job, tuple[Session, Ticket]] = {}  # running, and waiting for descriptors before they start
        self._cleaners: set[Job] = set()  # of those that wait or run, what is started and ends while the pool closes
        self._released = asyncio.Event()  # set at each end of a job, while somebody waits for one
        self._expecting = 0  # how many do
        self._used_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stopped = False  # only what cleans up is started
        self._closed = False

    @property
    def count(self) -> int:
        """How many connections live."""
        return len(self._sessions)

    @property
    def capacity(self) -> int:
        """How many places the connections have that live."""
        return min(self._places, sum(session.capacity for session in self._sessions))

    @property
    def in_flight(self) -> int:
        """How many places are taken."""
        return len(self._running)

    @property
    def running(self) -> list[Job]:
        """The jobs that have a place."""
        return list(self._running)

    @property
    def stopped(self) -> bool:
        """Whether the pool is closed, or is being closed."""
        return self._stopped

    @property
    def closed(self) -> bool:
        """Whether nothing is started any more, what cleans up included."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many jobs wait for a place."""
        return len(self._waiting)

    @property
    def idle_s(self) -> float | None:
        """How long nothing has been under way on connections that live; ``None``: something is, or none lives."""
        return self._clock.monotonic() - self._used_at if self._sessions and not self._running else None

    @property
    def _places(self) -> int:
        requests = self._traffic.requests
        return requests if requests > _PLACES_MIN else _PLACES_MIN

    def submit(self, job: Job, *, cleans_up: bool = False) -> None:
        """Start the job as soon as there is a place for it, in order of arrival.

        Args:
            job: The job.
            cleans_up: Whether it is started even while the pool is being closed.
        """
        if self._closed or (self._stopped and not cleans_up):
            where = self._options.address
            job.fail(SFTPError(f"{where}: the pool is closed", host=where))
            return
        self._waiting[job] = None
        if cleans_up:
            self._cleaners.add(job)
        self._pump()

    def want(self, count: int) -> None:
        """Have that many connections, if there may be so many, whatever the load: for work that is worth it."""
        if not self._stopped:
            self._least = count
            self._grow(count)

    def withdraw(self, job: Job) -> None:
        """Forget a job that waits; one that has started is left alone."""
        self._waiting.pop(job, None)
        self._cleaners.discard(job)
        if job in self._parked:
            self.release(self._unpark(job), job)

    def release(self, session: Session, job: Job) -> None:
        """Give a job's place back."""
        self._running.pop(job, None)
        if self._descriptors and (count := self._descriptors.pop(job, 0)):
            OPEN_FILES.give(count)
        if self._cleaners:
            self._cleaners.discard(job)
        if self._expecting:
            self._released.set()
        if self._waiting and session.alive and len(self._running) < self._places:  # the first in line gets this place
            following, _ = self._waiting.popitem(last=False)
            self._running[following] = None
            self._start(following, session)
            if len(self._sessions) < self._options.connections:
                self._grow()
            return
        session.in_flight -= 1
        if self._waiting:
            self._pump()
        elif not self._running:
            self._used_at = self._clock.monotonic()
            if self._idle_timer is None and not self._stopped:
                loop = asyncio.get_running_loop()
                self._idle_timer = loop.call_later(self._options.idle_close_s, self._close_if_idle)

    def hold(self, job: Held) -> None:
        """Count a job that has started among those that are hurried once nothing else has a place, and others wait."""
        self._held.add(job)

    def let_go(self, job: Held) -> None:
        """Count it no more: it gives its place back."""
        self._held.discard(job)

    async def released(self, jobs: Iterable[Job], timeout_s: float) -> None:
        """Wait until these jobs have given their places back, but no longer than that."""
        missing = list(jobs)
        self._expecting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while missing := [job for job in missing if job in self._running]:
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError:
            pass
        finally:
            self._expecting -= 1

    def stop(self) -> None:
        """Fail what waits and what runs, except for what cleans up; nothing else is started from now on."""
        self._stopped = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for job in [*self._waiting, *self._running]:
            if job not in self._cleaners:
                self.withdraw(job)
                _end(job, self._was_closed())

    async def close(self) -> None:
        """Fail all that waits or runs, and close every connection."""
        self._stopped = self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._easing.stop()
        for job in list(self._parked):
            self._unpark(job)
            del self._running[job]
            job.fail(self._was_closed())
        self._fail_waiting(self._was_closed())
        making = list(self._making)
        for task in making:
            task.cancel()
        sessions, self._sessions = self._sessions, []
        await asyncio.gather(*making, *(session.close() for session in sessions), return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _was_closed(self) -> SFTPError:
        where = self._options.address
        return SFTPError(f"{where}: the pool was closed", host=where)

    def _start(self, job: Job, session: Session) -> None:
        count = job.descriptors(session.protocol.read_bytes) if isinstance(job, OpensFiles) else 0
        if count:
            ticket = OPEN_FILES.take(count, partial(self._start_parked, job, session, count))
            if ticket is not None:
                self._parked[job] = (session, ticket)
                return
            self._descriptors[job] = count
        job.start(session)

    def _start_parked(self, job: Job, session: Session, count: int) -> None:
        if self._parked.pop(job, None) is None:
            OPEN_FILES.give(count)
            return
        self._descriptors[job] = count
        job.start(session)

    def _unpark(self, job: Job) -> Session:
        """Take a job out of the line for descriptors; one whose turn has come just now gives them back there."""
        session, ticket = self._parked.pop(job)
        OPEN_FILES.leave(ticket)
        return session

    def _pump(self) -> None:
        while self._waiting:
            session = min(self._sessions, key=_load, default=None)
            if session is not None and not session.alive:  # its end is being told to its jobs; this may be one
                self._sessions.remove(session)
                continue
            if session is None or session.in_flight >= session.capacity or len(self._running) >= self._places:
                break
            job, _ = self._waiting.popitem(last=False)
            session.in_flight += 1
            self._running[job] = None
            self._start(job, session)
        if self._waiting and len(self._held) >= len(self._running):
            for held in list(self._held):
                held.hurry()
        self._grow()

    def _grow(self, least: int = 0) -> None:
        have = len(self._sessions) + len(self._making)
        if have >= self._options.connections:  # as a rule
            return
        load = len(self._running) + len(self._waiting)
        spread = min((session.capacity for session in self._sessions), default=_JOBS_BEFORE_NEXT)
        spread = min(_JOBS_BEFORE_NEXT, spread)
        if (load <= have * spread and have >= least) or self._closed:
            return
        wanted = min(self._easing.connections, self._traffic.requests, max(least, -(-load // spread)))
        if not self._logged_in:
            wanted = self._before_login(least)
        for _ in range(min(wanted - have, _RAMP - len(self._making))):
            goes_ahead = not self._logged_in and not self._making
            if goes_ahead:
                self._login = asyncio.get_running_loop().create_future()
            task = asyncio.get_running_loop().create_task(self._make(goes_ahead))
            self._making.add(task)

    def _before_login(self, least: int) -> int:
        """How many connections there may be before one has logged in.

        One: servers count refused logins, and nobody is asked twice. Where a key logs in and work is announced that is
        worth it, that many: with a long round trip, a second connection takes as long as thousands of files. They
        wait with their logins for the first one.
        """
        options = self._options
        alone = self._ask is not None or options.accept_new or options.password is not None
        return 1 if alone else max(1, min(least, self._easing.connections))

    async def _make(self, goes_ahead: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        (FIRST_LOGIN if goes_ahead else LOGIN_GATE).set(self._login)
        try:
            session = await self._open()
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._making.discard(task)
            if goes_ahead and isinstance(error, SFTPAuthError | SFTPHostKeyError):  # the others would fare no better
                self._give_up_making()
            self._retreat(error)
            return
        finally:
            self._making.discard(task)
            open_gate()
        if self._closed:
            await session.close()
        elif session.alive:
            session.opened_at = self._clock.monotonic()
            self._sessions.append(session)
            if not self._logged_in:
                self._logged_in = True
                self._grow(self._least)
            self._pump()
        else:
            where = self._options.address
            self._retreat(session.protocol.ended or SFTPConnectionLost(f"{where}: lost at once", host=where))

    def _give_up_making(self) -> None:
        """Stop making connections; they are waited for when the pool closes."""
        making, self._making = self._making, set()
        for task in making:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _open(self) -> Session:
        attempt = 1
        options = self._options
        if options.unsaid:
            try:
                options = await asyncio.to_thread(timed, options)
            except SettingsError as error:
                raise SFTPConnectError(f"{options.address}: {error}", host=options.address) from None
        give_up_at = self._clock.monotonic() + options.connect_timeout_s
        while True:
            try:
                return await Session.open(options, self._connect, self._traffic, self._lost)
            except (SFTPAuthError, SFTPHostKeyError) as error:
                answered = None if self._ask is None else await self._ask(self._options, error)
                if answered is None:
                    raise
                # Times of the configuration are kept; what was answered holds for the connections to come.
                self._options = answered
                options = replace(
                    answered, connect_timeout_s=options.connect_timeout_s, keepalive_s=options.keepalive_s
                )
                continue
            except ConnectionDropped as error:
                # Where others live, one less is better than a server that is asked again and again.
                if attempt == (_TRIES if not self._sessions else 2) or self._clock.monotonic() >= give_up_at:
                    raise
                logger.debug("%s; trying again", error)
            # Jittered: those that were dropped together must not come back together.
            await self._clock.sleep(random.uniform(0.05, 0.15) * 2**attempt)
            attempt += 1

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._stopped or self._running or self._waiting:
            return  # the last one that gives its place back begins anew
        left = self._used_at + self._options.idle_close_s - self._clock.monotonic()
        if left > 0:
            self._idle_timer = asyncio.get_running_loop().call_later(left, self._close_if_idle)
            return
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            self._end(session)

    def _end(self, session: Session) -> None:
        ending = asyncio.get_running_loop().create_task(session.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _retreat(self, error: Exception) -> None:
        have = len(self._sessions) + len(self._making)
        if have:
            self._easing.not_made(have, bool(self._sessions), error)
        else:
            self._fail_waiting(error)

    def _lost(self, session: Session) -> None:
        self._end(session)
        if session in self._sessions:
            self._sessions.remove(session)
        self._easing.lost(session, len(self._sessions))
        for job in [job for job, (taken, _) in self._parked.items() if taken is session]:
            self._unpark(job)  # it has not begun: another connection will do
            del self._running[job]
            self._waiting[job] = None
            self._waiting.move_to_end(job, last=False)
        if self._waiting:
            self._pump()

    def _fail_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, OrderedDict()
        for job in waiting:
            job.fail(error)


def _end(job: Job, error: Exception) -> None:
    """Give a job's caller that error; what the job has begun on the server it brings to an end."""
    future: asyncio.Future[object] | None = getattr(job, "future", None)
    if future is None:  # a listing
        job.fail(error)
    elif not future.done():
        future.set_exception(error)
    job.abandon()


_load = attrgetter("in_flight")
