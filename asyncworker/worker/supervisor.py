"""``celery worker --processes N``: a supervisor of N complete workers, each with its own consumer and its own loop.

Not prefork: nothing passes through the supervisor, and one worker's end is no other's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from tenacity import RetryCallState, wait_exponential

from asyncworker.processes import Child
from asyncworker.settings import ENV_PREFIX
from asyncworker.worker.supervised import ENOUGH, LEAVING, READY

__all__ = ["DRAIN_TIMED_OUT", "Command", "Place", "Supervisor"]

logger = logging.getLogger(__name__)

Command = Callable[[int], Sequence[str]]
"""Makes a worker's command line, given the file descriptor on which it will speak to us."""

#: The exit code when workers had to be killed, as that of timeout(1).
DRAIN_TIMED_OUT = 124

#: A worker that has run for so long after it was ready is not in a crash loop.
STEADY_S = 60.0

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0

_WARM, _COLD, _PASSED_ON = (signal.SIGTERM, signal.SIGHUP), signal.SIGQUIT, signal.SIGUSR1


class Place(msgspec.Struct, frozen=True):
    """How one of the workers is started.

    Attributes:
        node: Its node name.
        command: Its command line.
        health_file: Where it gives its signs of life; ``None``: nowhere.
    """

    node: str
    command: Command
    health_file: Path | None = None


class Slot:
    """The place of one worker, which one process after another may fill.

    Attributes:
        child: The process; ``None`` before its first start, between two, and after its last.
        start_at_s: When the next process is due, in monotonic time; ``None``: none is.
        ready_at_s: Since when it takes tasks; ``None``: not yet.
        enough: Why it wants to be replaced.
        kill_at_s: It drains, and is killed then.
        leaving: It ends by remote control, and is not to be replaced.
        speaks: Its pipe is open.
    """

    def __init__(self, place: Place) -> None:
        self.node = place.node
        self.child: Child | None = None
        self.start_at_s: float | None = time.monotonic()
        self.ready_at_s: float | None = None
        self.enough = ""
        self.kill_at_s: float | None = None
        self.leaving = False
        self.speaks = False
        self._place = place
        self._pipe = -1
        self._heard = b""
        self._deaths = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        self._deaths.attempt_number = 0
        self._wait = wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def fileno(self) -> int:
        """The pipe on which the process speaks."""
        return self._pipe

    def start(self) -> None:
        """Start a process."""
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            command = self._place.command(write_end)
            self.child = Child(command, env=self._environment(), keep_fds=[write_end])
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(write_end)
        self.start_at_s = self.ready_at_s = self.kill_at_s = None
        self.enough, self._heard, self.leaving, self.speaks = "", b"", False, True

    def _environment(self) -> dict[str, str] | None:
        if self._place.health_file is None:
            return None
        return {**os.environ, f"{ENV_PREFIX}HEALTH_FILE": str(self._place.health_file)}

    def listen(self) -> None:
        """Hear what the process has said."""
        with contextlib.suppress(BlockingIOError):
            heard = os.read(self._pipe, 4096)
            # At its end the pipe would be readable for ever; that a process has ended, SIGCHLD says.
            self.speaks = bool(heard)
            self._heard += heard
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            if line == READY:
                self.ready_at_s = time.monotonic()
            elif line == LEAVING:
                self.leaving = True
            elif line.startswith(ENOUGH):
                self.enough = line.removeprefix(ENOUGH).decode(errors="replace")

    def bury(self) -> int | None:
        """Take leave of a process that has ended; return its exit code, or ``None`` while it lives."""
        if self.child is None or (code := self.child.returncode) is None:
            return None
        self.listen()
        os.close(self._pipe)
        if self._place.health_file is not None:
            with contextlib.suppress(OSError):  # a file of one that is gone would be taken for one that hangs
                self._place.health_file.unlink()
        self.child, self.speaks = None, False
        return code

    @property
    def is_changing(self) -> bool:
        """Whether it is between one working process and the next."""
        return self.start_at_s is not None or self.kill_at_s is not None or bool(self.child and not self.ready_at_s)

    def wait_s(self) -> float:
        """How long to wait after a death: longer each time, until a process has run steadily."""
        if self.ready_at_s is not None and time.monotonic() - self.ready_at_s > STEADY_S:
            self._deaths.attempt_number = 0
        self._deaths.attempt_number += 1
        return self._wait(self._deaths)


class Supervisor:
    """Starts the workers, replaces those that end, passes signals on. Owns the main thread while it runs.

    Args:
        places: How each worker is started.
        drain_timeout_s: How long a worker that was told to end may take; then it is killed.
    """

    def __init__(self, places: Sequence[Place], *, drain_timeout_s: float) -> None:
        self._slots = [Slot(place) for place in places]
        self._drain_timeout_s = drain_timeout_s
        self._signals: deque[int] = deque()
        self._stopping = False
        self._started_once = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until all workers have ended for good; return the exit code."""
        with self._caught_signals() as wake:
            try:
                while any(slot.child or slot.start_at_s is not None for slot in self._slots):
                    self._start_due()
                    self._wait(wake)
                    while self._signals:
                        self._obey(self._signals.popleft())
                    for slot in self._slots:
                        self._look_at(slot)
                    self._replace_one()
            finally:
                for slot in self._slots:
                    if slot.child:
                        slot.child.kill()
        return self._exit_code

    # -- waiting -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[int]:
        """Queue the signals that concern us; yields a descriptor that becomes readable with each."""
        wake, write_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(write_end, False)
        wanted = (*_WARM, _COLD, _PASSED_ON, signal.SIGINT, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in wanted}
        fd_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(write_end)

    def _wait(self, wake: int) -> None:
        dates = [date for slot in self._slots for date in (slot.start_at_s, slot.kill_at_s) if date is not None]
        timeout_s = max(0.0, min(dates) - time.monotonic()) if dates else None
        pipes = [slot.fileno() for slot in self._slots if slot.speaks]
        readable, _, _ = select.select([wake, *pipes], [], [], timeout_s)
        if wake in readable:
            os.read(wake, 4096)

    # -- what happens to one worker ------------------------------------------------------------------------------

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.start_at_s is not None and slot.start_at_s <= time.monotonic():
                try:
                    slot.start()
                except OSError as exc:  # no memory, too many processes: that may pass
                    wait_s = slot.wait_s()
                    slot.start_at_s = time.monotonic() + wait_s
                    logger.error("%s could not be started: %s; tried again in %g s", slot.node, exc, wait_s)

    def _look_at(self, slot: Slot) -> None:
        if slot.child is None:
            return
        slot.listen()
        self._started_once = self._started_once or slot.ready_at_s is not None
        code = slot.bury()
        if code is not None:
            self._after_end(slot, code)
        elif slot.kill_at_s is not None and slot.kill_at_s <= time.monotonic():
            logger.error("%s did not end within %g s and is killed", slot.node, self._drain_timeout_s)
            slot.kill_at_s = None
            slot.child.kill()
            if self._stopping:
                self._exit_code = DRAIN_TIMED_OUT

    def _after_end(self, slot: Slot, code: int) -> None:
        draining, slot.kill_at_s = slot.kill_at_s is not None, None
        if self._stopping:
            # One that was asked to end before it had installed its handler is no failure.
            if code not in (0, -signal.SIGTERM, -signal.SIGQUIT):
                logger.error("%s ended with %s", slot.node, _told(code))
                self._exit_code = self._exit_code or _as_exit_code(code)
        elif slot.leaving and code == 0:
            logger.warning("%s was shut down by remote control and is not replaced", slot.node)
        elif slot.enough and draining and code == 0:
            slot.start_at_s = time.monotonic()
        elif not self._started_once and code != 0:
            # As one worker alone would: what keeps all from starting is told, and is not tried for ever.
            logger.error("%s ended with %s before any worker was ready: giving up", slot.node, _told(code))
            self._exit_code = _as_exit_code(code)
            self._stop(signal.SIGTERM)
        else:
            wait_s = slot.wait_s()
            slot.start_at_s = time.monotonic() + wait_s
            logger.error("%s ended with %s; another starts in %g s", slot.node, _told(code), wait_s)

    def _replace_one(self) -> None:
        """Let one that has had enough drain, and only one: the others take its tasks meanwhile."""
        if self._stopping or any(slot.is_changing for slot in self._slots):
            return
        for slot in self._slots:
            if slot.enough and slot.child:
                logger.info("%s is replaced: %s", slot.node, slot.enough)
                slot.kill_at_s = time.monotonic() + self._drain_timeout_s
                slot.child.signal(signal.SIGTERM)
                return

    # -- signals -------------------------------------------------------------------------------------------------

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == _PASSED_ON:
            self._send(signal.SIGUSR1)
        elif number == _COLD or (number == signal.SIGINT and self._stopping):
            logger.warning("%s: cold shutdown", signal.Signals(number).name)
            self._stop(signal.SIGQUIT)
        else:
            logger.warning("%s: warm shutdown", signal.Signals(number).name)
            self._stop(signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping:
            self._stopping = True
            for slot in self._slots:
                slot.start_at_s = None
                slot.kill_at_s = time.monotonic() + self._drain_timeout_s if slot.child else None
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.child:
                slot.child.signal(number)


def _told(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"


def _as_exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
