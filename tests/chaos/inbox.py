"""An inbox whose worker is killed again and again: ``python -m tests.chaos.inbox --kills 20 --store postgres``.

Each item handles a file, writes its number to a log of its own and deletes it, so that the source lists other files
whenever it is read again; new files come at each kill. The worker gets SIGKILL at random points (seeded), and another
one goes on. By that log every file is handled at least once, and no run reports one that was not. With a key one run
does it all. Without one, a run whose listing has changed must refuse to go on; the next run then lists what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import RunChanged
from tests.chaos import inbox_tasks
from tests.servers.client import client_app
from tests.servers.postgres import running_postgres
from tests.servers.redelivery import redeliver
from tests.servers.worker import Worker, running_worker

__all__ = ["Done", "Plan", "handle_inbox"]

GET_S = 300.0
EVERY_S = 0.25
#: Files at the beginning, and more at each kill.
FILES, MORE_FILES = 150, 100


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        kills: How often the worker is killed.
        keyed: Whether the run has a key.
        store: ``postgres`` or ``sqlite``.
        seed: Decides the points.
    """

    kills: int
    keyed: bool
    store: str = "sqlite"
    seed: int = 0


@dataclass
class Done:
    """What came of it.

    Attributes:
        files: How many there were.
        executions: Lines in the items' own log.
        runs: How many were sent.
        refused: How many of these refused to go on.
        reported: Files that a run reported as done.
    """

    files: int = 0
    executions: int = 0
    runs: int = 0
    refused: int = 0
    reported: int = 0


def handle_inbox(plan: Plan, folder: Path) -> Done:
    """Handle one inbox; raises where a promise is broken."""
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
            "ASYNCWORKER_INCLUDE": inbox_tasks.__name__,
            "ASYNCWORKER_LEASE_S": "3",
            # One run dies more often than a poison task is let.
            "ASYNCWORKER_MAX_DELIVERIES": "0",
        }
        client = stack.enter_context(client_app(server, asyncworker_store_url=store_url))
        return _Inbox(plan, folder, server, client, env).run()


class _Inbox:
    def __init__(
        self, plan: Plan, folder: Path, server: EmbeddedServer, client: Celery[Any], env: dict[str, str]
    ) -> None:
        self._plan = plan
        self._rng = random.Random(f"{plan.seed}/{plan.keyed}")
        self._folder = folder
        self._files = folder / "inbox"
        self._files.mkdir()
        self._log = folder / "log"
        self._log.touch()
        self._server = server
        self._client = client
        self._env = env
        self._workers = 0
        self._done = Done()

    def run(self) -> Done:
        self._add(FILES)
        kills = 0
        result, listed = self._send()
        while True:
            with self._worker() as worker:
                while True:
                    if kills < self._plan.kills and self._wait_for_point(result):
                        worker.kill()
                        worker.wait()
                        kills += 1
                        break
                    self._check(result, listed)
                    if kills == self._plan.kills and not any(self._files.iterdir()):
                        return self._sum_up()
                    if not any(self._files.iterdir()):
                        self._add(MORE_FILES)
                    result, listed = self._send()
            redeliver(self._server)
            self._add(MORE_FILES)

    def _add(self, count: int) -> None:
        for number in range(self._done.files, self._done.files + count):
            # Names in no order of time: a new one may come before those that were listed.
            path = self._files / f"{self._rng.randrange(1 << 32):08x}-{number}"
            path.with_suffix(".tmp").write_text(str(number))
            path.with_suffix(".tmp").rename(path)
        self._done.files += count

    def _send(self) -> tuple[Any, set[str]]:
        listed = {path.name for path in self._files.iterdir()}
        task: Any = self._client.tasks["inbox.item"]
        fan_out = task.partial(folder=str(self._files), log=str(self._log), pause_s=0.05)
        options: dict[str, Any] = {"concurrency": 10, "checkpoint_every_s": EVERY_S}
        if self._plan.keyed:
            options["key"] = "name"
        source = self._client.tasks["inbox.listing"].s(str(self._files))
        self._done.runs += 1
        return fan_out.options(**options).iterate(name=source).delay(), listed

    def _wait_for_point(self, result: Any) -> bool:
        """Wait until some more files are handled; tell whether the run is still going on."""
        point = self._handled_lines() + self._rng.randint(1, 60)
        while self._handled_lines() < point and not result.ready():
            time.sleep(0.005)
        time.sleep(self._rng.uniform(0, 2 * EVERY_S))
        return not result.ready()

    def _check(self, result: Any, listed: set[str]) -> None:
        """Hold what a run says against what was handled."""
        refused = False
        try:
            result.get(timeout=GET_S)
        except RunChanged as exc:
            assert not self._plan.keyed
            assert "options(key=" in str(exc)
            refused = True
        progress = result.progress()
        reported = result.results()
        handled = self._handled()
        unhandled = {name for name in reported if int(name.partition("-")[2]) not in handled}
        assert not unhandled, f"reported as done, and never handled: {unhandled}"
        assert len(reported) == len(set(reported)) == progress.done
        assert result.errors() == []
        if refused:
            self._done.refused += 1
            assert (progress.state, progress.complete) == ("failed", False)
        else:
            # What is done is all that was listed.
            assert (progress.state, progress.done) == ("done", progress.total)
            dropped = listed & {path.name for path in self._files.iterdir()}
            assert not dropped, f"listed by a run that is done, and never handled: {dropped}"
        self._done.reported += len(reported)

    def _handled_lines(self) -> int:
        return self._log.stat().st_size // inbox_tasks.LINE_BYTES

    def _handled(self) -> set[int]:
        return {int(line) for line in self._log.read_text().split()}

    def _sum_up(self) -> Done:
        assert self._handled() == set(range(self._done.files))
        self._done.executions = self._handled_lines()
        return self._done

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        self._workers += 1
        name = f"worker-{self._workers}@test"
        with running_worker(self._folder, "--without-mingle", "--without-gossip", env=self._env, name=name) as worker:
            yield worker


def main() -> None:
    """Handle an inbox with a key and one without, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for keyed in (True, False):
        with tempfile.TemporaryDirectory(prefix="inbox-") as folder:
            done = handle_inbox(Plan(given.kills, keyed, given.store, given.seed), Path(folder))
        print(
            f"{'with' if keyed else 'without'} a key, {given.store}, seed {given.seed}: {given.kills} kills, "
            f"{done.files} files handled in {done.executions} executions by {done.runs} runs, {done.refused} of them "
            f"refused to go on; {done.reported} files reported, all of them handled",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
