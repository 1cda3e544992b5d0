"""A worker, a client, their broker and backend, and a log that neither can lose: what outages are tried on."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from celery.states import READY_STATES

from tests.chaos import outage_tasks
from tests.servers.client import client_app
from tests.servers.proxy import Proxy, running_proxy
from tests.servers.valkey import RestartableValkey
from tests.servers.worker import Worker, running_worker

__all__ = ["ALL", "EACH", "GET_S", "OUTAGE_S", "WORK_S", "Scene", "Urls", "parted_scene", "running_scene"]

ALL = ("o.early", "o.late", "o.late_sync")
GET_S = 120.0
#: How long the tasks run that an outage hits; each outage begins while they run and ends after they have.
WORK_S = 1.0
OUTAGE_S = 2.0
EACH = 15


@dataclass(frozen=True)
class Urls:
    """Where one side finds broker and backend; a proxy may stand before them."""

    broker_url: str
    result_url: str


@dataclass
class Scene:
    """A worker, a client, and the log that neither broker nor backend can lose."""

    worker: Worker
    app: Celery[Any]
    log_path: Path
    stop_path: Path

    def send(self, *names: str, seconds: float = WORK_S, count: int = EACH) -> dict[str, list[str]]:
        """Send some tasks of each kind; returns their ids.

        Not their results: such an object talks to its server in the end, for half a minute where that is gone.
        """
        return {name: [self.app.tasks[name].delay(n, seconds).id for n in range(count)] for name in names}

    def noted(self, word: str) -> Counter[str]:
        """How often each task has noted that word."""
        lines = self.log_path.read_text().splitlines() if self.log_path.exists() else []
        return Counter(line.partition(" ")[2] for line in lines if line.startswith(word))

    def beats(self) -> int:
        """How often the loop has come round to the heartbeat."""
        return self.noted("beat").total()

    def wait_for(self, reached: Callable[[], object], what: str, timeout_s: float = GET_S) -> None:
        """Wait until something is so, or fail with the worker's log."""
        give_up_at_s = time.monotonic() + timeout_s
        while not reached():
            assert self.worker.returncode is None, f"the worker died; its log:\n{self.worker.log()}"
            assert time.monotonic() < give_up_at_s, f"{what} did not come; the worker's log:\n{self.worker.log()}"
            time.sleep(0.05)

    def begin(self, *names: str, seconds: float = WORK_S) -> dict[str, list[str]]:
        """Start the heartbeat and some tasks of each kind; returns once all of them run."""
        self.app.tasks["o.heartbeat"].delay(str(self.stop_path))
        sent = self.send(*names, seconds=seconds)
        ids = {task_id for task_ids in sent.values() for task_id in task_ids}
        self.wait_for(lambda: self.beats() and ids <= self.noted("begin").keys(), "the beginning of every task")
        return sent

    def check_beats(self, before: int, outage_s: float = OUTAGE_S) -> None:
        """The loop is not held up in an outage, which lasts still: half of the beats that fit into it come."""
        # A busy machine may take longer over them; a loop that is held up has none until the outage ends.
        self.wait_for(lambda: self.beats() - before > outage_s / 0.05 / 2, "the beats of the loop")

    def check(self, sent: dict[str, list[str]], *, redelivered: int = 0) -> None:
        """Every result arrives, nothing runs more often than it may, the pool is empty in the end, new tasks are taken.

        Args:
            sent: What was in flight.
            redelivered: How often a task with late acks may have come again. kombu gives back what is not acknowledged
                when it closes a connection that was lost while the server answers; RabbitMQ does it itself.
        """
        for name, task_ids in sent.items():
            assert [self.result(task_id) for task_id in task_ids] == list(range(len(task_ids))), name
            allowed = 1 + (0 if name == "o.early" else redelivered)
            assert all(1 <= self.noted("begin")[task_id] <= allowed for task_id in task_ids), self.worker.log()
        for name, task_ids in self.send("o.early", "o.late", "o.late_sync", seconds=0, count=5).items():
            assert [self.result(task_id) for task_id in task_ids] == list(range(5)), name
        self.stop_path.touch()
        self.wait_for(lambda: self.stats()["in-flight"] == 0, "an empty pool")
        assert self.worker.returncode is None

    def result(self, task_id: str) -> Any:
        """What a task has ended with: its value, or its exception."""
        found: dict[str, Any] = {}

        def ready() -> bool:
            found.update(self.app.backend.get_task_meta(task_id, cache=False))
            return found["status"] in READY_STATES

        self.wait_for(ready, f"the result of {task_id}")
        return found["result"]

    def stats(self) -> Any:
        answer = self.app.control.inspect(timeout=10, limit=1).stats() or {}
        return next((stats["pool"] for stats in answer.values()), {"in-flight": None})


@contextlib.contextmanager
def running_scene(
    folder: Path,
    client: Urls,
    worker: Urls,
    app: str = "asyncworker",
    tasks: str = outage_tasks.__name__,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """Run a worker of the tasks in that module, with more settings if they are given, and a client."""
    log_path = folder / "outage.log"
    env = {
        "ASYNCWORKER_BROKER_URL": worker.broker_url,
        "ASYNCWORKER_RESULT_URL": worker.result_url,
        "ASYNCWORKER_STATE_DIR": str(folder / "state"),
        "ASYNCWORKER_INCLUDE": tasks,
        outage_tasks.LOG_VARIABLE: str(log_path),
        **(settings or {}),
    }
    with (
        running_worker(folder, "-c", "100", "--without-mingle", "--without-gossip", env=env, app=app) as node,
        client_app(client) as app,
    ):
        yield Scene(node, app, log_path, folder / "stop")


@contextlib.contextmanager
def parted_scene(server: RestartableValkey, folder: Path, app: str = "asyncworker") -> Iterator[tuple[Scene, Proxy]]:
    """A proxy stands between the worker and its Redis; the client has a connection of its own."""
    with running_proxy(server.port) as proxy:
        parted = Urls(server.url(0, proxy.port), server.url(1, proxy.port))
        with running_scene(folder, Urls(server.url(0), server.url(1)), parted, app) as scene:
            yield scene, proxy
