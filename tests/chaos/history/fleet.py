"""The workers of a chaos run: killed, frozen, told to leave, and always replaced."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, SIGUSR1

from tests.chaos.history.brokers import Broker
from tests.chaos.history.log import append
from tests.chaos.history.plan import Harm
from tests.chaos.history.settings import BROKER_VARIABLE, LEASE_S
from tests.chaos.history.tasks import LOG_VARIABLE
from tests.servers.worker import Worker, running_worker

__all__ = ["Fleet"]

_SLOTS = "20"
#: How long a worker that was told to leave may take: its tasks are shorter.
_LEAVE_S = 60.0


@dataclass
class _Place:
    """Where one worker after the other runs."""

    number: int
    stack: contextlib.ExitStack
    worker: Worker
    generation: int = 1
    thaw_at_s: float | None = None
    then_kill: bool = False
    gone_by_s: float | None = None
    """It was told to leave; it should be gone by then."""


class Fleet:
    """A number of workers on one broker.

    Args:
        count: How many.
        broker: Their broker.
        folder: For their logs and their store.
        log: The history, which also gets what is done to them.
    """

    def __init__(self, count: int, broker: Broker, folder: Path, log: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._log = log
        self._places: list[_Place] = []
        self._count = count
        self.store_url = f"sqlite+aiosqlite:///{folder}/store.sqlite"

    def start(self) -> None:
        """Start them; returns once all take tasks."""
        for number in range(1, self._count + 1):
            stack = contextlib.ExitStack()
            self._places.append(_Place(number, stack, self._started(stack, number, 1)))
        for place in self._places:
            place.worker.wait_for_log(" ready.", timeout_s=90)

    def tend(self) -> None:
        """Thaw those whose time has come, and replace those that have ended. Called again and again."""
        for place in self._places:
            if place.thaw_at_s is not None and time.monotonic() >= place.thaw_at_s:
                self._thaw(place)
            if place.gone_by_s is not None and time.monotonic() > place.gone_by_s:
                append(self._log, "stuck", pid=place.worker.pid)
                # Celery then logs where each of its threads is.
                place.worker.signal(SIGUSR1)
                place.worker.child.wait_for_log("LOCAL VARIABLES", 5.0)
                self._kill(place)
            elif place.worker.returncode is not None:
                # Nobody has killed it: it has left, or it has crashed, which the history tells as that.
                # One that has not come to Celery's signal handlers yet ends by the signal.
                young = place.worker.returncode == -SIGTERM and " ready." not in place.worker.log()
                told = place.gone_by_s is not None and (place.worker.returncode == 0 or young)
                append(self._log, "left" if told else "crashed", pid=place.worker.pid)
                self._replace(place)

    def suffer(self, harm: Harm) -> None:
        """Do harm to one of those that are neither frozen nor about to leave; nothing where there is none."""
        whole = [place for place in self._places if place.thaw_at_s is None and place.gone_by_s is None]
        if not whole:
            return
        place = whole[int(harm.victim * len(whole))]
        append(self._log, harm.kind, pid=place.worker.pid)
        match harm.kind:
            case "kill":
                self._kill(place)
            case "leave":
                place.gone_by_s = time.monotonic() + _LEAVE_S
                place.worker.signal(SIGTERM)
            case _:
                place.worker.pause()
                place.thaw_at_s = time.monotonic() + harm.seconds
                place.then_kill = harm.kind == "freeze_kill"

    def calm(self) -> None:
        """Thaw all; from now on nothing happens to them."""
        for place in self._places:
            if place.thaw_at_s is not None:
                self._thaw(place)

    @property
    def pids(self) -> set[int]:
        """Of those that run."""
        return {place.worker.pid for place in self._places}

    def logs(self) -> str:
        """Everything that all of them have logged."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("chaos*.log")))

    def stop(self) -> None:
        """End all of them."""
        for place in self._places:
            place.worker.resume()
            place.worker.signal(SIGTERM)
        for place in self._places:
            place.stack.close()

    def _thaw(self, place: _Place) -> None:
        place.thaw_at_s = None
        if place.then_kill:
            place.then_kill = False
            self._kill(place)
        else:
            append(self._log, "thaw", pid=place.worker.pid)
            place.worker.resume()

    def _kill(self, place: _Place) -> None:
        # Before it: the broker may give its messages to others before we come to write it down.
        append(self._log, "killed", pid=place.worker.pid)
        place.worker.kill()
        self._replace(place)

    def _replace(self, place: _Place) -> None:
        place.stack.close()
        place.gone_by_s = place.thaw_at_s = None
        place.generation += 1
        place.stack = contextlib.ExitStack()
        place.worker = self._started(place.stack, place.number, place.generation)

    def _started(self, stack: contextlib.ExitStack, number: int, generation: int) -> Worker:
        env = {
            "CELERY_BROKER_URL": self._broker.broker_url,
            "CELERY_RESULT_BACKEND": self._broker.result_url,
            "ASYNCWORKER_STATE_DIR": str(self._folder / "state"),
            "ASYNCWORKER_STORE_URL": self.store_url,
            "ASYNCWORKER_INCLUDE": "tests.chaos.history.tasks",
            "ASYNCWORKER_LEASE_S": str(LEASE_S),
            # Bad luck may kill the workers of one task more often than the default allows.
            "ASYNCWORKER_MAX_DELIVERIES": "100",
            "ASYNCWORKER_BROKER_WAIT_S": "60",
            BROKER_VARIABLE: self._broker.name,
            **self._broker.env,
            LOG_VARIABLE: str(self._log),
        }
        worker = running_worker(
            self._folder,
            *("-c", _SLOTS, "--without-mingle", "--without-gossip"),
            app="tests.chaos.history.app",
            env=env,
            name=f"chaos{number}-{generation}@test",
            ready=False,
        )
        return stack.enter_context(worker)
