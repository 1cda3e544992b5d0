"""Start a broker, a worker and a driver for each side, all at once, and return what each has seen."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asyncworker.cli.embedded import EmbeddedServer, find_server
from asyncworker.cli.processes import Child
from asyncworker.errors import EmbeddedServerError
from tests.parity.app import SIDES
from tests.parity.compare import BROKEN
from tests.parity.record import lines_by_scenario
from tests.servers import MissingServer
from tests.servers.worker import ROOT, Worker, running_worker

__all__ = ["run_all_sides", "run_sides"]

#: How long a driver may take for all of its scenarios.
DRIVER_S = 240.0

#: What the workers have in common: their number of slots, and all that makes noise off.
WORKER = ("-c", "4", "-E", "-Q", "parity,other", "--without-mingle", "--without-gossip", "--without-heartbeat")


def run_all_sides(folder: Path, scenarios: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Run scenarios on all sides, and those once more in which stock prefork lost a task, as it does now and then.

    There was nothing to compare with. What one of ours loses is not run again.
    """
    seen = run_sides(SIDES, folder / "first", scenarios)
    lost = [name for name, lines in seen["prefork"].items() if any(line.startswith(BROKEN) for line in lines)]
    if lost:
        again = run_sides(SIDES, folder / "again", lost)
        for side, lines_of in seen.items():
            lines_of.update(again[side])
    return seen


def run_sides(sides: Sequence[str], folder: Path, scenarios: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Run scenarios on sides; return the lines by side and scenario.

    Args:
        sides: Of ``tests.parity.app.SIDES``.
        folder: Where the logs go.
        scenarios: Names; empty for all.

    Raises:
        MissingServer: There is no Redis-compatible server here.
    """
    try:
        find_server()
    except EmbeddedServerError as exc:
        raise MissingServer(str(exc)) from exc
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_worker(side, folder / side)) for side in sides]
        for worker, _env in started:
            worker.wait_for_log(" ready.")
        drivers = [
            stack.enter_context(_driver(side, folder / side, env, scenarios))
            for side, (_worker_of_side, env) in zip(sides, started, strict=True)
        ]
        return {
            side: lines_by_scenario(_seen(side, folder / side, driver))
            for side, driver in zip(sides, drivers, strict=True)
        }


@contextlib.contextmanager
def _worker(side: str, folder: Path) -> Iterator[tuple[Worker, dict[str, str]]]:
    folder.mkdir(parents=True)
    with EmbeddedServer(folder / "broker") as server:
        env = {
            "CELERY_BROKER_URL": server.broker_url,
            "CELERY_RESULT_BACKEND": server.result_url,
            "PARITY_SIDE": side,
            "PARITY_FOLDER": str(folder),
            "ASYNCWORKER_STATE_DIR": str(folder / "state"),
        }
        pool = ("-P", "prefork") if side == "prefork" else ()
        with running_worker(
            folder,
            *WORKER,
            *pool,
            app="tests.parity.app",
            env=env | {"PARITY_ROLE": "worker"},
            name="worker@parity",
            ready=False,
        ) as worker:
            yield worker, env


@contextlib.contextmanager
def _driver(side: str, folder: Path, env: dict[str, str], scenarios: Sequence[str]) -> Iterator[Child]:
    command = [sys.executable, "-m", "tests.parity.side"]
    chosen = {"PARITY_SCENARIOS": ";".join(scenarios)} if scenarios else {}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, **env, **chosen}
    with Child(command, env=env, log=folder / "driver.log", cwd=ROOT) as child:
        yield child


def _seen(side: str, folder: Path, driver: Child) -> dict[str, Any]:
    code = driver.wait(DRIVER_S)
    if code != 0:
        raise RuntimeError(f"the driver of {side} ended with {code}; its log:\n{driver.log()}")
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen
