"""Fan-outs whose worker is killed again and again: ``python -m tests.chaos.kill_rounds --rounds 50``.

A round is one run through a real worker, broker and store. The worker gets SIGKILL at random points (seeded), another
one goes on, until the run is done. Each item writes a line to a log of its own when it begins. By that log there are no
more executions than items, and for each kill what was in flight and what one flush window holds: a quarter of a second,
or, where the machine is so loaded that the checkpoint was older than that, its age. The results must be those of a run
that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.chaos import kill_tasks
from tests.servers.client import client_app
from tests.servers.postgres import running_postgres
from tests.servers.redelivery import redeliver
from tests.servers.worker import Worker, running_worker

__all__ = ["Plan", "Round", "rounds"]

GET_S = 300.0
LEASE_S = 3.0
EVERY_S = 0.25


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        rounds: How many runs.
        items: Of each.
        concurrency: Items at once.
        pause_s: How long each takes.
        store: ``postgres`` or ``sqlite``.
        most_kills: Of one run; it gets one at least.
        seed: Decides the points.
    """

    rounds: int
    items: int
    concurrency: int = 100
    pause_s: float = 0.05
    store: str = "postgres"
    most_kills: int = 3
    seed: int = 0

    def cost(self, window_s: float = EVERY_S) -> int:
        """The most that a kill may cost: what is in flight, and what can finish within one flush window."""
        return self.concurrency + round(self.concurrency / self.pause_s * window_s)


@dataclass(frozen=True)
class Round:
    """What came of one run.

    Attributes:
        ages_s: How old the last checkpoint was at each kill of its worker.
        executions: Lines in the items' own log.
        allowed: The most there may be.
        seconds: From sending to the result.
    """

    ages_s: list[float]
    executions: int
    allowed: int
    seconds: float


def rounds(plan: Plan, folder: Path) -> Iterator[Round]:
    """Run them all; raises where a round breaks its promise."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "valkey"))
        store_url = f"sqlite+aiosqlite:///{folder}/store.sqlite"
        if plan.store == "postgres":
            postgres = stack.enter_context(running_postgres())
            store_url = postgres.url(postgres.add_database())
        env = {
            "ASYNCWORKER_BROKER_URL": server.broker_url,
            "ASYNCWORKER_RESULT_URL": server.result_url,
            "ASYNCWORKER_STORE_URL": store_url,
            "ASYNCWORKER_STATE_DIR": str(folder),
            "ASYNCWORKER_INCLUDE": kill_tasks.__name__,
            "ASYNCWORKER_LEASE_S": str(LEASE_S),
        }
        client = stack.enter_context(client_app(server, asyncworker_store_url=store_url))
        cluster = _Cluster(plan, folder, server, client, env)
        undisturbed = cluster.run(number=0, kill_at=[])
        assert undisturbed.executions == plan.items, undisturbed
        for number in range(1, plan.rounds + 1):
            rng = random.Random(f"{plan.seed}/{number}")
            points = sorted(rng.randrange(plan.items) for _ in range(rng.randint(1, plan.most_kills)))
            yield cluster.run(number, [(point, rng.uniform(0, 2 * EVERY_S)) for point in points])


class _Cluster:
    def __init__(
        self, plan: Plan, folder: Path, server: EmbeddedServer, client: Celery[Any], env: dict[str, str]
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._server = server
        self._client = client
        self._env = env
        self._results: list[Any] | None = None
        self._workers = 0

    def run(self, number: int, kill_at: list[tuple[int, float]]) -> Round:
        """One run, killed once so many items have begun and so many seconds more have passed."""
        plan, log = self._plan, self._folder / f"log-{number}"
        log.touch()
        began = time.monotonic()
        task: Any = self._client.tasks["kill.item"]
        options = {"concurrency": plan.concurrency, "checkpoint_every_s": EVERY_S}
        fan_out = task.partial(log=str(log), pause_s=plan.pause_s).options(**options)
        result = fan_out.iterate(number=range(plan.items)).delay()
        ages_s: list[float] = []
        for point, more_s in kill_at:
            with self._worker() as worker:
                while log.stat().st_size < point * kill_tasks.LINE_BYTES and not result.ready():
                    time.sleep(0.005)
                time.sleep(more_s)
                if result.ready():
                    break
                worker.kill()
                killed_at = datetime.now(UTC)
                worker.wait()
                ages_s.append((killed_at - result.progress().updated_at).total_seconds())
            redeliver(self._server)
        with self._worker():
            told = result.get(timeout=GET_S)
        executed = Counter(int(line) for line in log.read_text().split())
        log.unlink()
        allowed = plan.items + sum(plan.cost(max(EVERY_S, age_s)) for age_s in ages_s)
        done = Round(ages_s, executed.total(), allowed, time.monotonic() - began)
        assert told["done"] == plan.items, (number, told)
        assert len(executed) == plan.items, (number, f"{plan.items - len(executed)} items were never executed")
        assert done.executions <= done.allowed, (number, done)
        results = result.results()
        self._results = self._results or results
        assert results == self._results == [[index, index * index] for index in range(plan.items)], number
        return done

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        self._workers += 1
        name = f"worker-{self._workers}@test"
        with running_worker(self._folder, "--without-mingle", "--without-gossip", env=self._env, name=name) as worker:
            yield worker


def main() -> None:
    """Run, print a line a round, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--items", type=int, default=17_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seed", type=int, default=0)
    plan = Plan(**vars(parser.parse_args()))
    ages_s: list[float] = []
    again = allowed = above = 0
    with tempfile.TemporaryDirectory(prefix="kill-") as folder:
        for number, done in enumerate(rounds(plan, Path(folder)), 1):
            more = done.executions - plan.items
            again, allowed = again + more, allowed + done.allowed - plan.items
            above += more > len(done.ages_s) * plan.cost()
            ages_s += done.ages_s
            print(
                f"round {number}: {len(done.ages_s)} kills, {more:,} executions more than items "
                f"({done.allowed - plan.items:,} allowed), {done.seconds:.1f} s",
                flush=True,
            )
    late = sum(age_s > EVERY_S for age_s in ages_s)
    print(
        f"{plan.rounds} rounds of {plan.items:,} items on {plan.store}, seed {plan.seed}: {len(ages_s)} kills, "
        f"{again:,} items executed again ({allowed:,} allowed); all results equal those of an undisturbed run. "
        f"{late} kills met a checkpoint older than {EVERY_S} s, the oldest {max(ages_s, default=0.0):.2f} s; "
        f"{above} rounds were above {plan.cost()} a kill"
    )


if __name__ == "__main__":
    sys.exit(main())
