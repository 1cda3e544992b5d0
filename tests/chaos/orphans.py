"""A supervisor and its workers that are killed again and again: ``python -m tests.chaos.orphans --kills 200``.

Each kill is one signal to the supervisor of two workers, or to one of those, at one moment of its life: while it
starts, works, is recycled with two generations alive, is reloaded, or shuts down. After each one it is counted how many
processes are left that no supervisor has (orphans), and how many tasks came to no outcome (lost): none is allowed.
Late-ack tasks must succeed. Early-ack tasks, which SIGKILL may cost, are sent with the other signals only; they may
fail then, but must say so. The broker is RabbitMQ, which delivers again at once what a dead process held.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from asyncworker.cli.embedded import EmbeddedServer
from tests.chaos import orphan_tasks
from tests.servers.client import client_app
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from tests.servers.worker import Worker, running_worker

__all__ = ["ALL", "Kill", "Outcome", "kill_all"]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
MOMENTS = ("start", "work", "recycling", "reload", "shutdown")
MARK = "ORPHANS_MARK"
WAIT_S = 120.0
GONE_S = 20.0
MAX_TASKS = 30


@dataclass(frozen=True)
class Kill:
    """A signal, to ``supervisor`` or ``worker``, at one of the moments."""

    target: str
    number: signal.Signals
    moment: str

    def __str__(self) -> str:
        return f"{self.number.name} to the {self.target}, moment: {self.moment}"


@dataclass(frozen=True)
class Outcome:
    """What came of a kill.

    Attributes:
        kill: The kill.
        orphans: The command lines of processes that were left.
        lost: The numbers of tasks without an outcome.
        repeated: How often a task was started again.
    """

    kill: Kill
    orphans: list[str]
    lost: list[int]
    repeated: int


#: Those of the supervisor last: they end its life, which the others share.
ALL = [
    Kill(target, number, moment)
    for target in ("worker", "supervisor")
    for moment, number in itertools.product(MOMENTS, SIGNALS)
]


def kill_all(
    kills: Sequence[Kill], folder: Path, rabbitmq: RabbitMQ, server: EmbeddedServer, seed: int = 0
) -> Iterator[Outcome]:
    """Do them one after the other, and yield what came of each."""
    vhost = rabbitmq.add_vhost()
    urls: Any = SimpleNamespace(broker_url=rabbitmq.broker_url(vhost), result_url=server.result_url)
    mark = uuid.uuid4().hex
    env = {
        "ASYNCWORKER_BROKER_URL": urls.broker_url,
        "ASYNCWORKER_RESULT_URL": urls.result_url,
        "ASYNCWORKER_STATE_DIR": str(folder),
        "ASYNCWORKER_INCLUDE": orphan_tasks.__name__,
        "ASYNCWORKER_LEASE_S": "3",
        MARK: mark,
    }
    with (
        client_app(urls, asyncworker_state_dir=str(folder), include=[orphan_tasks.__name__]) as client,
        contextlib.closing(_Scene(folder, client, env, random.Random(seed))) as scene,
    ):
        for kill in kills:
            yield scene.outcome(kill)


class _Scene:
    def __init__(self, folder: Path, client: Any, env: dict[str, str], rng: random.Random) -> None:
        self._folder = folder
        self._client = client
        self._env = env
        self._rng = rng
        self._life = contextlib.ExitStack()
        self._node: Worker | None = None
        self._numbers = itertools.count()
        self._sent: dict[int, Any] = {}
        self._early: set[int] = set()

    def close(self) -> None:
        """End the last supervisor, and whatever else is left."""
        self._life.close()
        for process in self._marked():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def outcome(self, kill: Kill) -> Outcome:
        """Do one kill; wait until everything has ended that should, and every task has."""
        self._sent.clear()
        self._early.clear()
        log = self._folder / f"log-{uuid.uuid4().hex[:8]}"
        log.touch()
        target = self._reach(kill, log)
        with contextlib.suppress(psutil.NoSuchProcess):
            target.send_signal(kill.number)
        ends = kill.moment == "shutdown" or (kill.target == "supervisor" and kill.number != signal.SIGHUP)
        if ends:
            self._the_node.wait(WAIT_S)
        orphans = self._orphans()
        if self._the_node.returncode is not None:
            self._start(ready=True)
        lost = self._lost()
        started = [int(line.split()[0]) for line in log.read_text().splitlines()]
        log.unlink()
        return Outcome(kill, orphans, lost, len(started) - len(set(started)))

    # -- moments -------------------------------------------------------------------------------------------------

    def _reach(self, kill: Kill, log: Path) -> psutil.Process:
        """Bring about the moment; return the process that is to get the signal."""
        starts = kill.moment == "start" and kill.target == "supervisor"
        if starts or self._node is None or self._node.returncode is not None:
            self._start(ready=not starts)
        node = self._the_node
        if not starts:
            _until(lambda: node.log().count(" ready.") >= 2, node)
        self._send(log, early=kill.number != signal.SIGKILL)
        before = {process.pid for process in self._workers()}
        text = node.log()
        if kill.moment == "work":
            _until(lambda: log.stat().st_size > 0, node)
        elif kill.moment == "recycling":
            self._recycle(log, text.count(" retires: "))
        elif kill.moment == "shutdown":
            _until(lambda: log.stat().st_size > 0, node)
            node.signal(signal.SIGTERM)
            _until(lambda: "warm shutdown" in node.log(), node)
        elif starts:
            _until(self._workers, node)
        else:
            node.signal(signal.SIGHUP)
            _until(lambda: any(process.pid not in before for process in self._workers()), node)
        time.sleep(self._rng.uniform(0, 0.2 if kill.moment == "shutdown" else 1.0))
        if kill.target == "supervisor":
            return psutil.Process(node.pid)
        workers = self._workers()
        if kill.moment == "start":
            workers = [process for process in workers if process.pid not in before] or workers
        return self._rng.choice(workers) if workers else psutil.Process(node.pid)

    def _recycle(self, log: Path, retired: int) -> None:
        """Send tasks until one worker has had enough, and runs its last ones beside its successor."""
        node = self._the_node
        give_up_at_s = time.monotonic() + WAIT_S
        while node.log().count(" retires: ") <= retired:
            assert time.monotonic() < give_up_at_s, node.log()
            if len(self._sent) - len(self._unsettled()) > len(self._sent) // 2:
                self._send(log, early=False)
            time.sleep(0.1)

    def _start(self, *, ready: bool) -> None:
        self._life.close()
        arguments = ("--processes", "2", "-c", "10", "--max-tasks", str(MAX_TASKS), "--without-mingle")
        arguments += ("--without-gossip",)
        self._node = self._life.enter_context(running_worker(self._folder, *arguments, env=self._env, ready=False))
        if ready:
            _until(lambda: self._the_node.log().count(" ready.") >= 2, self._the_node)

    @property
    def _the_node(self) -> Worker:
        assert self._node is not None
        return self._node

    def _workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self._the_node.pid).children()
        return []

    # -- tasks and processes -------------------------------------------------------------------------------------

    def _send(self, log: Path, *, early: bool) -> None:
        for pause_s, is_early in [(0.2, False)] * 4 + [(2.0, False)] * 2 + [(0.2, True), (2.0, True)] * early:
            number = next(self._numbers)
            task = self._client.tasks["orphan.early" if is_early else "orphan.late"]
            self._sent[number] = task.delay(str(log), number, pause_s)
            if is_early:
                self._early.add(number)

    def _unsettled(self) -> list[int]:
        return [
            number
            for number, result in self._sent.items()
            if result.state != "SUCCESS" and not (number in self._early and result.state == "FAILURE")
        ]

    def _lost(self) -> list[int]:
        give_up_at_s = time.monotonic() + WAIT_S
        while (lost := self._unsettled()) and time.monotonic() < give_up_at_s:
            time.sleep(0.1)
        return lost

    def _marked(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._env[MARK] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _orphans(self) -> list[str]:
        """Wait until none is left; else return, and end, those that are."""
        give_up_at_s = time.monotonic() + GONE_S
        while (left := self._strays()) and time.monotonic() < give_up_at_s:
            time.sleep(0.1)
        shown = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                shown.append(" ".join(process.cmdline()))
                process.kill()
        return shown

    def _strays(self) -> list[psutil.Process]:
        node = self._the_node
        strays = []
        for process in self._marked():
            with contextlib.suppress(psutil.NoSuchProcess):
                owners = {node.pid} if node.returncode is None else set()
                if owners.isdisjoint({process.pid, *(parent.pid for parent in process.parents())}):
                    strays.append(process)
        return strays


def _until(reached: Callable[[], object], node: Worker) -> None:
    give_up_at_s = time.monotonic() + WAIT_S
    while not reached():
        assert node.returncode is None, node.log()
        assert time.monotonic() < give_up_at_s, f"did not happen in time:\n{node.log()}"
        time.sleep(0.02)


def main() -> int:
    """Kill, print a line a kill, and sum up; return 1 where something was left or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="Decides which process of several, and how late.")
    given = parser.parse_args()
    kills = list(itertools.islice(itertools.cycle(ALL), given.kills))
    orphans = lost = repeated = 0
    with tempfile.TemporaryDirectory(prefix="orphans-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(EmbeddedServer(folder / "valkey"))
        rabbitmq = stack.enter_context(running_rabbitmq(folder / "rabbitmq"))
        for number, outcome in enumerate(kill_all(kills, folder, rabbitmq, server, given.seed), 1):
            orphans, lost = orphans + len(outcome.orphans), lost + len(outcome.lost)
            repeated += outcome.repeated
            print(
                f"{number}: {outcome.kill}: {len(outcome.orphans)} orphans, {len(outcome.lost)} tasks lost, "
                f"{outcome.repeated} started again",
                *outcome.orphans,
                sep="\n  ",
                flush=True,
            )
    print(f"{len(kills)} kills, seed {given.seed}: {orphans} orphans, {lost} tasks lost, {repeated} started again")
    return int(bool(orphans or lost))


if __name__ == "__main__":
    # A shell's background job ignores Ctrl-C, and so would the processes that are to get it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("ASYNCWORKER_STATE_DIR", None)
    sys.exit(main())
