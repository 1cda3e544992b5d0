"""A chaos run: publish, do harm, wait until nothing moves any more, and gather what is known of it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery

import asyncworker
from asyncworker.errors import RunNotFound
from asyncworker.store import open_store
from asyncworker.tasks.names import RUN_ITERATE
from tests.chaos.history import tasks
from tests.chaos.history.brokers import Broker, stored
from tests.chaos.history.fleet import Fleet
from tests.chaos.history.history import History, Outcome
from tests.chaos.history.log import Line, append, read
from tests.chaos.history.plan import Harm, Send, plan
from tests.chaos.history.settings import CONCURRENCY, ITEMS
from tests.servers.publisher import NotAccepted, Publisher

__all__ = ["ChaosRun"]

#: A run is over when nothing has moved for so long, whatever is left.
QUIET_S = 60.0
TICK_S = 0.02
#: How much slower tasks are sent while the broker is down.
REFUSED_FACTOR = 5


class ChaosRun:
    """One run on one broker.

    Args:
        broker: It.
        folder: For logs and store.
        seed: Of the plan.
        tasks: How many the broker is to accept.
        rate: Tasks a second, at the most.
        workers: How many.
    """

    def __init__(
        self, broker: Broker, folder: Path, *, seed: int, tasks: int, rate: float = 20.0, workers: int = 3
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "history"
        self.fleet = Fleet(workers, broker, folder, self.log)
        self._broker = broker
        self._folder = folder
        self._steps = plan(seed, tasks)
        self._tasks = tasks
        self._rate = rate
        self._publisher = Publisher(broker.broker_url)
        self._fan_out = _fan_out_app()
        self._up_at_s: float | None = None
        self._sent: list[str] = []

    def run(self) -> History:
        """Run it to its end."""
        try:
            self.fleet.start()
            self._do_steps()
            self._calm()
            self._wait_until_quiet()
            return self._gather()
        finally:
            self._publisher.close()
            if self._up_at_s is not None:
                self._broker.up()
            self.fleet.stop()

    # -- harm --------------------------------------------------------------------------------------------------------

    def _do_steps(self) -> None:
        next_at_s = time.monotonic()
        for step in self._steps:
            if len(self._sent) == self._tasks:
                return
            # What is sent to a broker that is down tells little.
            wait_s = (1 if self._up_at_s is None else REFUSED_FACTOR) / self._rate
            next_at_s = max(next_at_s + wait_s, time.monotonic() - 1)
            self._tend()
            while time.monotonic() < next_at_s:
                time.sleep(TICK_S)
                self._tend()
            if isinstance(step, Send):
                self._send(step)
            else:
                self._harm(step)

    def _tend(self) -> None:
        self.fleet.tend()
        if self._up_at_s is not None and time.monotonic() >= self._up_at_s:
            self._broker.up()
            append(self.log, "up", pid=-1)
            self._up_at_s = None

    def _harm(self, step: Harm) -> None:
        if step.kind not in ("disconnect", "restart", "crash", "refuse"):
            self.fleet.suffer(step)
        elif self._up_at_s is None and (step.kind != "refuse" or self._broker.may_refuse):
            append(self.log, step.kind, pid=-1)
            if step.kind == "disconnect":
                self._broker.cut()
                return
            if step.kind == "refuse":
                self._broker.refuse(as_replica=step.victim < 0.5)
            else:
                self._broker.down(crash=step.kind == "crash")
            self._up_at_s = time.monotonic() + step.seconds

    def _calm(self) -> None:
        self.fleet.calm()
        while self._up_at_s is not None:
            time.sleep(TICK_S)
            self._tend()

    # -- publishing --------------------------------------------------------------------------------------------------

    def _send(self, step: Send) -> None:
        task_id = str(uuid.uuid4())
        try:
            if step.kind == "fan_out":
                self._publisher.send(task_id, RUN_ITERATE, kwargs=self._fan_out(step.seconds))
            else:
                self._publisher.send(task_id, f"history.{step.kind}", (step.seconds,))
        except NotAccepted:
            # It may have come all the same: nothing is promised of it, and nothing asked.
            append(self.log, "refused", task_id=task_id, kind=step.kind)
        else:
            append(self.log, "sent", task_id=task_id, kind=step.kind)
            self._sent.append(task_id)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _wait_until_quiet(self) -> None:
        """Wait until the broker holds nothing and nothing runs; or nothing moves."""
        seen: Any = None
        seen_at_s = time.monotonic()
        empty = 0
        while empty < 2:
            time.sleep(1.0)
            self.fleet.tend()
            lines = [line for line in read(self.log) if line.event != "pulse"]
            held = self._broker.holds()
            empty = empty + 1 if not held and not _open(lines, self.fleet.pids) else 0
            now = (len(lines), held)
            if now != seen:
                seen, seen_at_s = now, time.monotonic()
            elif time.monotonic() - seen_at_s > QUIET_S:
                return

    def _gather(self) -> History:
        history = History(self._broker.loses_on_its_way, redis=self._broker.name == "redis")
        history.add_lines(read(self.log))
        history.left = self._broker.holds()
        history.told = self._broker.told() if history.left else ""
        ahead_s = time.time() - time.monotonic()
        given_away = self._broker.lost_on_their_way()
        history.given_away_at_s = {task_id: at_s - ahead_s for task_id, at_s in given_away.items()}
        found = stored(self._broker, self._sent)
        history.outcomes = {task_id: _outcome(body) for task_id, body in found.items()}
        runs = [task_id for task_id, kind in history.kinds.items() if kind == "fan_out"]
        history.items = asyncio.run(_stored_items(self.fleet.store_url, runs))
        return history


def _open(lines: list[Line], pids: set[int]) -> bool:
    """Tell whether something runs in those processes."""
    ended = {line.token for line in lines if line.event in ("end", "cut")}
    return any(line.event == "begin" and line.pid in pids and line.token not in ended for line in lines)


def _outcome(body: bytes) -> Outcome:
    document = json.loads(body)
    value = document.get("result")
    token = value if isinstance(value, str) else ""
    return Outcome(str(document.get("status")), token, str(value)[:300])


async def _stored_items(url: str, run_ids: list[str]) -> dict[str, dict[int, str]]:
    store = await open_store(url)
    items: dict[str, dict[int, str]] = {}
    try:
        for run_id in run_ids:
            try:
                items[run_id] = {index: value async for index, value in store.results(run_id)}
            except RunNotFound:
                items[run_id] = {}
    finally:
        await store.close()
    return items


def _fan_out_app() -> Any:
    app: Celery[Any] = Celery("fan_out", set_as_current=False)
    asyncworker.install(app)
    item = app.tasks[tasks.item.name]
    return lambda seconds: dict(
        item.partial(seconds=seconds).options(concurrency=CONCURRENCY).iterate(number=range(ITEMS)).kwargs
    )
