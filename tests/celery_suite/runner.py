"""Run the suite once a side, all sides at once, each with servers of its own; collect what became of each test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from asyncworker.processes import Child
from tests.celery_suite.plugin import CONCURRENCY, OUTCOMES, POOL
from tests.celery_suite.source import fetch_suite, prepare
from tests.servers.rabbitmq import running_rabbitmq
from tests.servers.valkey import running_valkey
from tests.servers.worker import ROOT

__all__ = ["BROKERS", "SIDES", "Outcome", "Side", "run_suite"]

BROKERS = ("redis", "rabbitmq")

#: For a side: the suite itself takes eight minutes on an idle machine.
_LIMIT_S = 3600.0
_LIMIT_A_TEST_S = 120

#: What a test's reports amount to; the first that one of them has.
_WORST_FIRST = ("failed", "xfailed", "skipped", "passed")


@dataclasses.dataclass(frozen=True)
class Side:
    """A worker for the suite.

    Attributes:
        name: As the table has it.
        pool: Celery's ``worker_pool``.
        async_tasks: Whether the suite's tasks are rewritten.
        concurrency: Of the worker; the suite's own is one.
    """

    name: str
    pool: str
    async_tasks: bool = False
    concurrency: int = 1


_OURS = "asyncworker.worker.pool:AsyncPool"

#: Stock prefork comes first: the others are compared with it.
SIDES = (
    Side("prefork", "prefork"),
    Side("def", _OURS),
    Side("async def", _OURS, async_tasks=True),
    Side("async def, 100 at once", _OURS, async_tasks=True, concurrency=100),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a test ended: ``passed``, ``failed``, ``skipped`` or ``xfailed``, and why."""

    word: str
    why: str = ""


def run_suite(
    folder: Path, broker: str, sides: Sequence[Side] = SIDES, arguments: Sequence[str] = ()
) -> dict[str, dict[str, Outcome]]:
    """Run the suite on each side.

    Args:
        folder: For the suite, the servers' data and the logs.
        broker: Of :data:`BROKERS`; results are kept in Redis either way.
        sides: Of :data:`SIDES`.
        arguments: Added to pytest's command line, such as ``-k`` and an expression.

    Returns:
        The outcomes by side and test.

    Raises:
        MissingServer: A server, or the source of the suite, cannot be had here.
    """
    source = fetch_suite(folder)
    with contextlib.ExitStack() as stack:
        runs = {side.name: stack.enter_context(_running(side, source, folder, broker, arguments)) for side in sides}
        for child in runs.values():
            child.wait(_LIMIT_S)
        return {side.name: _outcomes(side, _folder(folder, side), runs[side.name]) for side in sides}


def _folder(folder: Path, side: Side) -> Path:
    return folder / side.name.replace(" ", "-").replace(",", "")


@contextlib.contextmanager
def _running(side: Side, source: Path, folder: Path, broker: str, arguments: Sequence[str]) -> Iterator[Child]:
    own = _folder(folder, side)
    suite = own / "suite"
    shutil.copytree(source, suite)
    prepare(suite, async_tasks=side.async_tasks)
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(running_valkey(own / "valkey"))
        broker_url = valkey.url()
        if broker == "rabbitmq":
            server = stack.enter_context(running_rabbitmq(own / "rabbitmq"))
            broker_url = server.broker_url(server.add_vhost())
        env = os.environ | {
            # The suite's own way to say where its servers are.
            "TEST_BROKER": broker_url,
            "TEST_BACKEND": valkey.url(),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(valkey.port),
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "ASYNCWORKER_STATE_DIR": str(own / "state"),
            POOL: side.pool,
            CONCURRENCY: str(side.concurrency),
            OUTCOMES: str(own / "outcomes.jsonl"),
        }
        # A module whose own dependencies are missing is missing on every side.
        options = ["-p", "no:xdist", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        command = [sys.executable, "-m", "pytest", "-p", "tests.celery_suite.plugin", *options]
        command += [f"--timeout={_LIMIT_A_TEST_S}", *(arguments or ["t/integration"])]
        yield stack.enter_context(Child(command, env=env, cwd=suite, log=own / "pytest.log"))


def _outcomes(side: Side, own: Path, child: Child) -> dict[str, Outcome]:
    path = own / "outcomes.jsonl"
    # 1: tests failed, which is what is compared.
    assert child.returncode in (0, 1) and path.exists(), f"{side.name}: pytest ended early:\n{child.log()[-8000:]}"
    found: dict[str, Outcome] = {}
    for line in path.read_text().splitlines():
        report = json.loads(line)
        new = Outcome(report["outcome"], report["why"])
        old = found.get(report["test"], new)
        found[report["test"]] = min(old, new, key=lambda outcome: _WORST_FIRST.index(outcome.word))
    return found
