"""The place of one worker among those of a supervisor, which one process after another fills."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
from tenacity import RetryCallState, wait_exponential

from asyncworker.errors import SettingsError
from asyncworker.settings import ENV_PREFIX
from asyncworker.worker.supervised import RENAME, RETIRE, Command
from asyncworker.worker.supervised_process import WorkerProcess, output_is_held

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "Place", "Slot", "exit_text"]

logger = logging.getLogger(__name__)

#: A worker that has run for so long after it was ready is not in a crash loop.
STEADY_S = 60.0

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0

#: How often a place that cannot be filled is named again, once the wait no longer grows.
REMINDER_S = 3600.0

Environment = Callable[[], Mapping[str, str]]


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
    """One place: the process that works in it, the one that is to follow it, and those that finish what they run.

    Attributes:
        current: It takes tasks, or will; ``None`` before the first start and between two.
        successor: It was started to take the place of ``current``, and is not ready yet.
        retiring: Former ones, which run their last tasks to the end.
        start_at_s: When the next process is due, in monotonic time; ``None``: none is.
        deaths: How many have ended badly in a row, without one that was steady since.
        restarts: How many have ended badly in all.
        down_since_s: Since when it has no process that takes tasks, in monotonic time; ``None``: it has one.
    """

    def __init__(self, place: Place, environment: Environment) -> None:
        self.node = place.node
        self.current: WorkerProcess | None = None
        self.successor: WorkerProcess | None = None
        self.retiring: list[WorkerProcess] = []
        self.start_at_s: float | None = time.monotonic()
        self.restarts = 0
        self.down_since_s: float | None = time.monotonic()
        self._place = place
        self._environment = environment
        self._steady_at_s: float | None = None
        self._first_death_at_s = 0.0
        self._reloads = False
        self._reason = ""
        self._named_at_s = 0.0
        self._deaths = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        self._deaths.attempt_number = 0
        self._wait = wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    @property
    def processes(self) -> Iterator[WorkerProcess]:
        """All that run."""
        return (each for each in (self.current, self.successor, *self.retiring) if each is not None)

    @property
    def deaths(self) -> int:
        """See the class."""
        return self._deaths.attempt_number

    @property
    def bad_since_s(self) -> float | None:
        """Since when no process takes tasks, or one after another has ended badly, in monotonic time."""
        crashes = self.deaths > 1 and not (self._steady_at_s and time.monotonic() >= self._steady_at_s)
        return self._first_death_at_s if crashes else self.down_since_s

    @property
    def is_changing(self) -> bool:
        """Whether it is between one working process and the next."""
        waits_for_first = self.current is not None and self.current.ready_at_s is None
        return self.start_at_s is not None or self.successor is not None or waits_for_first

    # -- starting ------------------------------------------------------------------------------------------------

    def start_due(self) -> None:
        """Start a process where one is due: the only one, or the successor of one that goes on until it is ready."""
        if self.start_at_s is None or self.start_at_s > time.monotonic():
            return
        self.start_at_s = None
        try:
            process = self._start()
        except (OSError, SettingsError) as exc:
            # No memory, too many processes, an environment file that cannot be read: that may pass.
            self._start_later(f"could not be started: {exc}")
            return
        if self.current is None:
            self.current = process
        else:
            self.successor = process

    def _start(self) -> WorkerProcess:
        env = dict(self._environment())
        if self._place.health_file is not None:
            env[f"{ENV_PREFIX}HEALTH_FILE"] = str(self._place.health_file)
        if self.current is not None:
            self.current.tell(RENAME)
        hold_output = output_is_held(tried_before=self.deaths > 0)
        return WorkerProcess(self.node, self._place.command, env=env, hold_output=hold_output)

    @property
    def wants_successor(self) -> bool:
        """Whether its process is to be replaced; while an earlier one runs its last tasks, only by new code."""
        if self.current is None or not self.current.enough or self.current.leaving:
            return False
        return not self.retiring or self._reloads

    def reload(self) -> None:
        """Have its process replaced, and one that is just starting as well: either may have old code."""
        self._reloads = True
        for process in (self.current, self.successor):
            if process is not None:
                process.enough = "SIGHUP"

    def replace(self) -> None:
        """Start a successor; what works now goes on until that is ready."""
        assert self.current is not None
        self._reloads = False
        logger.info("%s is replaced: %s", self.node, self.current.enough)
        self.start_at_s = time.monotonic()

    def look(self) -> None:
        """Note which processes have become ready; a successor that has takes the place."""
        if self.successor is not None and self.successor.ready_at_s is not None:
            if self.current is not None:
                self.current.tell(RETIRE)
                self.current.retiring = True
                self.retiring.append(self.current)
            self.current, self.successor = self.successor, None
        if self.current is not None and self.current.ready_at_s is not None:
            self.down_since_s = None
            self._steady_at_s = self.current.ready_at_s + STEADY_S

    # -- ends ----------------------------------------------------------------------------------------------------

    def take_leave(self, process: WorkerProcess) -> None:
        """Forget a process that has ended; a successor that has not become ready becomes the only one."""
        if process in self.retiring:
            self.retiring.remove(process)
        elif process is self.successor:
            self.successor = None
        else:
            self.current, self.successor = self.successor, None
            if self.down_since_s is None:
                self.down_since_s = time.monotonic()
        if self._place.health_file is not None and not (self.current and self.current.ready_at_s):
            with contextlib.suppress(OSError):  # a file of one that is gone would be taken for one that hangs
                self._place.health_file.unlink()

    def failed(self, process: WorkerProcess, code: int) -> None:
        """Start another process later, where none is left that works or starts; say why, but not again and again."""
        was_ready = process.ready_at_s is not None
        reason = process.reason()
        # Of numbers, only some differ: times and process ids.
        is_known = not was_ready and bool(reason) and re.sub(r"\d+", "", reason) == self._reason
        self._reason = "" if was_ready else re.sub(r"\d+", "", reason)
        what = f"ended with {exit_text(code)}"
        if not was_ready and self.deaths and not is_known and reason:
            what += f" before it was ready: {reason}"
        elif not was_ready and not self.deaths:
            process.show_output()
        if self.current is not None and self.current.ready_at_s is not None:
            what += "; the one that it was to replace goes on"
        if self.current is None or self.current.enough:
            self._start_later(what)

    def _start_later(self, what: str) -> None:
        wait_s = self._next_wait_s()
        self.start_at_s = time.monotonic() + wait_s
        is_growing = wait_s < LONGEST_WAIT_S
        if is_growing or time.monotonic() - self._named_at_s >= REMINDER_S:
            self._named_at_s = time.monotonic()
            times = "" if is_growing else f" ({self.deaths} times in a row)"
            logger.error("%s %s%s; another starts in %g s", self.node, what, times, wait_s)

    def _next_wait_s(self) -> float:
        """Count a bad end; return how long to wait: longer each time, until a process has run steadily."""
        if self._steady_at_s is not None and time.monotonic() > self._steady_at_s:
            self._deaths.attempt_number = 0
        self._steady_at_s = None
        self._deaths.attempt_number += 1
        if self.deaths == 1:
            self._first_death_at_s = time.monotonic()
        self.restarts += 1
        return self._wait(self._deaths)


def exit_text(code: int) -> str:
    """Return an exit code as it is shown; a negative one is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
