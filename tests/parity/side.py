"""The driver of one side: runs all scenarios against one worker, and writes down what came of them.

``python -m tests.parity.side`` with the side in the environment; started by ``runner``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from celery import states
from celery.canvas import Signature
from kombu.exceptions import DecodeError

from tests.parity.app import FOLDER, LOG, SIDE, app, gate_path
from tests.parity.recording import shown

__all__ = ["SCENARIOS", "Driver", "read_log", "scenario"]

WAIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What to do, and when it can be done.

    Attributes:
        run: Does it.
        alone: Nothing else may run meanwhile.
        stops: It stops a running task, which no thread allows.
    """

    run: Callable[[Driver], None]
    alone: bool
    stops: bool


#: By name.
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *, alone: bool = False, stops: bool = False) -> Callable[[Callable[[Driver], None]], None]:
    """Declare a scenario; ids of its tasks begin with its name."""

    def declared(run: Callable[[Driver], None]) -> None:
        SCENARIOS[name] = Scenario(run, alone or stops, stops)

    return declared


class Driver:
    """What a scenario may do: send tasks with ids of its own, wait for them, look at the broker, write down a fact."""

    def __init__(self, name: str, broker: redis.Redis) -> None:
        self.name = name
        self.broker = broker
        self.facts: dict[str, Any] = {}
        self.followed: list[str] = []

    def id(self, short: str) -> str:
        return f"{self.name}/{short}"

    def sig(self, task: str, *args: Any, id: str, **options: Any) -> Signature:
        """Make a signature; its task is followed under that short id."""
        self.followed.append(id)
        immutable = options.pop("immutable", False)
        return app.signature(f"parity.{task}", args, immutable=immutable, **options).set(task_id=self.id(id))

    def send(self, task: str, *args: Any, id: str, **options: Any) -> Any:
        """Send one task."""
        self.followed.append(id)
        return app.tasks[f"parity.{task}"].apply_async(args, task_id=self.id(id), **options)

    def fact(self, name: str, value: Any) -> None:
        """Write down what was seen."""
        self.facts[name] = value

    def state(self, short: str) -> str:
        """Return the state that the result store gives."""
        try:
            return str(app.backend.get_task_meta(self.id(short), cache=False)["status"])
        except DecodeError:
            return "undecodable"

    def wait(self, *shorts: str) -> None:
        """Wait until tasks have a final state."""
        for short in shorts:
            self.until(f"{short} is ready", lambda short=short: self.state(short) in states.READY_STATES)

    def wait_noted(self, short: str, what: str, times: int = 1) -> None:
        """Wait until something was written down that often of a task."""
        self.until(f"{short} {what} x{times}", lambda: self.noted(short, what) >= times)

    def noted(self, short: str, what: str) -> int:
        """Return how often it was written down."""
        return sum(each["id"] == self.id(short) and each["what"] == what for each in read_log())

    def until(self, what: str, reached: Callable[[], bool], timeout_s: float = WAIT_S, *, told: bool = True) -> bool:
        """Wait for something; what never comes is a fact, and counts as a difference."""
        give_up = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > give_up:
                if told:
                    self.fact(f"waited in vain: {what}", True)
                return False
            time.sleep(0.05)
        return True

    def open(self, gate: str) -> None:
        """Let the tasks through that wait there."""
        gate_path(gate).touch()

    def unacknowledged(self, short: str) -> bool:
        """Whether the broker still holds the task for its worker."""
        return any(json.loads(raw)[0]["headers"]["id"] == self.id(short) for raw in self.broker.hvals("unacked"))

    def queued(self, queue: str) -> int:
        """Return the number of messages in a queue, of every priority."""
        return sum(int(self.broker.llen(key)) for key in self.broker.scan_iter(f"{queue}*"))

    def control(self, command: str, **arguments: Any) -> Any:
        """Have the worker carry out a remote command, and wait for its answer."""
        answers = app.control.broadcast(command, arguments=arguments, reply=True, timeout=15, limit=1)
        return next(iter(answers[0].values())) if answers else None


def read_log() -> Iterable[dict[str, Any]]:
    """Yield what was written down so far."""
    if LOG.exists():
        for line in LOG.read_text().splitlines():
            if line.endswith("}"):
                yield json.loads(line)


class Events(threading.Thread):
    """Collects the worker's events."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[dict[str, Any]] = []
        self._stop_now = False

    def run(self) -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": self.seen.append})
            with receiver.consumer_context() as (own_connection, _channel, _consumers):
                while not self._stop_now:
                    with contextlib.suppress(TimeoutError):
                        own_connection.drain_events(timeout=0.2)

    def begin(self) -> None:
        """Start, and return once an event comes through: the subscription is made by the first wait for one."""
        give_up = time.monotonic() + WAIT_S
        with app.events.default_dispatcher() as dispatcher:
            self.start()
            while not self.seen:
                if time.monotonic() > give_up:
                    raise RuntimeError("no event comes through")
                dispatcher.send("parity-begins")
                time.sleep(0.05)

    def stop(self) -> None:
        self._stop_now = True
        self.join(5)


def run_all(wanted: Iterable[str]) -> dict[str, Any]:
    """Run scenarios, those that may at once, and return everything that was seen."""
    broker = redis.Redis.from_url(app.conf.broker_url.replace("redis+socket", "unix").replace("virtual_host", "db"))
    events = Events()
    events.begin()
    drivers = {name: Driver(name, broker) for name in wanted}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_run_one, [driver for driver in drivers.values() if not SCENARIOS[driver.name].alone]))
    for driver in drivers.values():
        if SCENARIOS[driver.name].alone:
            _run_one(driver)
    _until_quiet(events)
    events.stop()
    seen = {name: _seen(driver) for name, driver in drivers.items()}
    left = {
        "queued": [json.loads(raw)["headers"]["id"] for raw in broker.lrange("parity", 0, -1)],
        "unacknowledged": sorted(json.loads(raw)[0]["headers"]["id"] for raw in broker.hvals("unacked")),
    }
    seen["the broker at the end"] = {"facts": left, "results": {}}
    return {"scenarios": seen, "events": events.seen, "log": list(read_log())}


def _run_one(driver: Driver) -> None:
    started = time.monotonic()
    try:
        SCENARIOS[driver.name].run(driver)
    except Exception as exc:
        driver.fact("the scenario itself failed", repr(exc))
    print(f"{time.monotonic() - started:6.1f} s  {driver.name}", flush=True)


def _until_quiet(events: Events) -> None:
    """Wait until nothing was written down for a while."""
    before, quiet = -1, 0
    for _ in range(60):
        size = (LOG.stat().st_size if LOG.exists() else 0) + len(events.seen)
        quiet = quiet + 1 if size == before else 0
        before = size
        if quiet >= 3:
            return
        time.sleep(0.3)


def _seen(driver: Driver) -> dict[str, Any]:
    return {"facts": driver.facts, "results": {short: _result(driver.id(short)) for short in driver.followed}}


def _result(task_id: str) -> dict[str, Any]:
    try:
        meta = dict(app.backend.get_task_meta(task_id, cache=False))
    except Exception as exc:
        return {"unreadable": repr(exc)}
    for name in ("date_done", "task_id"):
        meta.pop(name, None)
    meta["result"] = shown(meta.get("result"))
    meta["traceback"] = bool(meta.get("traceback"))
    meta["children"] = [str(child) for child in meta.get("children") or []]
    return meta


def main() -> None:
    """Run the side that the environment names."""
    app.loader.import_default_modules()
    for theme in ("canvas", "tasks", "acks", "control"):
        importlib.import_module(f"tests.parity.scenarios_{theme}")
    chosen = os.environ.get("PARITY_SCENARIOS")
    wanted = chosen.split(";") if chosen else list(SCENARIOS)
    if SIDE == "threads":
        wanted = [name for name in wanted if not SCENARIOS[name].stops]
    (FOLDER / "seen.json").write_text(json.dumps(run_all(wanted), default=repr))


if __name__ == "__main__":
    # By its own name, where the scenarios find it, too.
    from tests.parity.side import main as run_main

    run_main()
