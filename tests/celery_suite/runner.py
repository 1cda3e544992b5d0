"""Run the suite once a side, all sides at once, each with servers of its own; collect what became of each test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asyncworker.processes import Child
from tests.celery_suite.plugin import CONCURRENCY, OUTCOMES, POOL
from tests.celery_suite.source import fetch_suite, prepare
from tests.servers.rabbitmq import running_rabbitmq
from tests.servers.valkey import running_valkey
from tests.servers.worker import ROOT

__all__ = ["BROKERS", "SIDES", "Outcome", "Side", "run_suite"]

BROKERS = ("redis", "rabbitmq")

#: For a module.
_LIMIT_S = 3600.0

_OPTIONS = ("-p", "tests.celery_suite.plugin", "-p", "no:xdist", "-p", "no:cacheprovider", "--timeout=180")

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
    folder: Path,
    broker: str,
    sides: Sequence[Side] = SIDES,
    modules: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> dict[str, dict[str, Outcome]]:
    """Run the suite on each side, all sides at once.

    Args:
        folder: For the suite, the servers' data and the logs.
        broker: Of :data:`BROKERS`; results are kept in Redis either way.
        sides: Of :data:`SIDES`.
        modules: Names of the suite's modules, such as ``test_canvas``; empty for all.
        arguments: Added to pytest's command line, such as ``-k`` and an expression.

    Returns:
        The outcomes by side and test.

    Raises:
        MissingServer: A server, or the source of the suite, cannot be had here.
    """
    source = fetch_suite(folder)
    with ThreadPoolExecutor(len(sides)) as threads:
        runs = [
            threads.submit(_run_side, side, source, folder / _folder_name(side), broker, modules, arguments)
            for side in sides
        ]
        return {side.name: run.result() for side, run in zip(sides, runs, strict=True)}


def _folder_name(side: Side) -> str:
    return side.name.replace(" ", "-").replace(",", "")


def _run_side(
    side: Side, source: Path, own: Path, broker: str, modules: Sequence[str], arguments: Sequence[str]
) -> dict[str, Outcome]:
    suite = own / "suite"
    shutil.copytree(source, suite)
    present = prepare(suite, side.pool, async_tasks=side.async_tasks)
    wanted = [module for module in present if not modules or module.stem in modules]
    with contextlib.ExitStack() as stack:
        env = _environment(side, own, broker, stack)
        # A process a module: a worker that a test starts and stops would stop that of the session, too.
        for module in wanted:
            command = [sys.executable, "-m", "pytest", str(module), *_OPTIONS, *arguments]
            with Child(command, env=env, cwd=suite, log=own / f"{module.stem}.log") as child:
                child.wait(_LIMIT_S)
                # 1: tests failed, which is what is compared; 2: it cannot be imported here; 5: none was chosen.
                assert child.returncode in (0, 1, 2, 5), f"{side.name}: {module} ended early:\n{child.log()[-8000:]}"
    return _outcomes(own)


def _environment(side: Side, own: Path, broker: str, stack: contextlib.ExitStack) -> dict[str, str]:
    """Start the servers of a side; return what its processes have in their environment."""
    valkey = stack.enter_context(running_valkey(own / "valkey"))
    broker_url = valkey.url()
    if broker == "rabbitmq":
        server = stack.enter_context(running_rabbitmq(own / "rabbitmq"))
        broker_url = server.broker_url(server.add_vhost())
    return os.environ | {
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


def _outcomes(own: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for line in (own / "outcomes.jsonl").read_text().splitlines():
        report = json.loads(line)
        new = Outcome(report["outcome"], report["why"])
        old = found.get(report["test"], new)
        found[report["test"]] = min(old, new, key=lambda outcome: _WORST_FIRST.index(outcome.word))
    return found
