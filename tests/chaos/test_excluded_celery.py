"""The Celery that ``pyproject.toml`` excludes does die of an outage of Redis; else it need not be excluded."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.servers import MissingServer
from tests.servers.publisher import Publisher
from tests.servers.valkey import running_valkey
from tests.servers.worker import ROOT, Worker, running_worker

#: Of prefork; as many tasks run as an outage begins, and as many are sent after it.
PROCESSES = 2
WORK_S = 10.0
CRASH = "AttributeError: 'NoneType' object has no attribute 'hostname'"


def celery_requirement() -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (celery,) = (each for each in map(Requirement, project["dependencies"]) if each.name == "celery")
    return celery


EXCLUDED = sorted(each.version for each in celery_requirement().specifier if each.operator == "!=")


@pytest.fixture(scope="module", params=EXCLUDED)
def excluded_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with that version, what it asks for at its newest, and nothing of ours."""
    folder = tmp_path_factory.mktemp("celery")
    python = folder / "bin" / "python"
    for arguments in (
        ["venv", "--without-pip", str(folder)],
        ["pip", "--python", str(python), "install", "--quiet", f"celery[redis]=={request.param}", "packaging"],
    ):
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingServer(f"celery {request.param} cannot be installed: {done.stderr[-500:]}")
    return python


def wait_until(reached: Callable[[], object], worker: Worker, timeout_s: float = 120.0) -> None:
    give_up_at_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < give_up_at_s, worker.log()
        time.sleep(0.05)


def send(url: str, seconds: float) -> list[str]:
    task_ids = [str(uuid.uuid4()) for _ in range(PROCESSES)]
    publisher = Publisher(url)
    publisher.send_many([(task_id, "stock.sleep", (seconds,), {}) for task_id in task_ids])
    publisher.close()
    return task_ids


def outlives_an_outage(python: str, folder: Path) -> tuple[bool, str]:
    """Stop Redis while late-ack tasks run under stock prefork, and start it again.

    Returns:
        Whether the worker lived, and did what was sent afterwards; and its log.
    """
    with running_valkey(folder / "valkey") as server:
        env = {"CELERY_BROKER_URL": server.url(0), "CELERY_RESULT_BACKEND": "disabled://"}
        options = ("-P", "prefork", "-c", str(PROCESSES), "--without-mingle", "--without-gossip")
        with running_worker(
            folder, *options, app="tests.chaos.stock_app", env=env, program=(python, "-m", "celery")
        ) as worker:
            send(server.url(0), WORK_S)
            wait_until(lambda: worker.log().count(" received") >= PROCESSES, worker)
            server.stop()
            wait_until(lambda: worker.returncode is not None or worker.log().count(" succeeded") == PROCESSES, worker)
            server.start()
            after = send(server.url(0), 0)
            wait_until(
                lambda: worker.returncode is not None or all(f"{each}] succeeded" in worker.log() for each in after),
                worker,
            )
            return worker.returncode is None, worker.log()


def test_the_excluded_version_dies_of_it(excluded_python: Path, tmp_path: Path) -> None:
    lived, log = outlives_an_outage(str(excluded_python), tmp_path)
    assert not lived, f"it need not be excluded any more:\n{log}"
    assert CRASH in log


def test_the_installed_version_lives(tmp_path: Path) -> None:
    lived, log = outlives_an_outage(sys.executable, tmp_path)
    assert lived, log
    assert CRASH not in log


def test_what_is_allowed_and_installed() -> None:
    allowed = celery_requirement().specifier
    assert EXCLUDED == ["5.7.0"]
    assert allowed.contains("5.6.3")
    assert allowed.contains(version("celery"))
