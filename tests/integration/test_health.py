"""The sign of life for probes: it fails when the loop is blocked, or the worker is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from asyncworker.worker.health import HealthFile
from tests.integration import tasks
from tests.servers.command import asyncworker
from tests.servers.valkey import running_valkey
from tests.servers.worker import Worker, running_worker


def health(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return asyncworker("health", *arguments, env={"ASYNCWORKER_HEALTH_FILE": str(path)})


@pytest.mark.promise("health-says-whether-it-works")
def test_alive_blocked_and_gone(worker: Callable[..., Worker], client: Celery, tmp_path: Path) -> None:
    path = tmp_path / "health"
    assert health(path).returncode == 1
    env = {"ASYNCWORKER_HEALTH_FILE": str(path), "ASYNCWORKER_BLOCKED_AFTER_S": "0.2"}
    node = worker(tasks.__name__, "--without-mingle", env=env)
    alive = health(path)
    assert alive.returncode == 0, alive.stderr
    assert f"process {node.pid} is alive" in alive.stdout

    gate = tmp_path / "gate"
    blocked = client.tasks["t.burn_cpu"].delay(60, str(gate))
    node.wait_for_log(f"by task t.burn_cpu[{blocked.id}]")
    time.sleep(2)
    seen = health(path, "--max-age", "1.5")
    gate.touch()
    assert seen.returncode == 1
    assert "its loop is blocked" in seen.stderr
    assert blocked.get(timeout=120) == "burnt"
    until = time.monotonic() + 120
    while health(path, "--max-age", "1.5").returncode:
        assert time.monotonic() < until, "it did not come back to life"

    assert node.stop() == 0
    assert "is not there" in health(path).stderr


def test_a_worker_that_drains_is_gone_for_a_probe(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    """It takes no more tasks, and the loop that wrote the file goes on turning."""
    path, gate = tmp_path / "health", tmp_path / "gate"
    node = worker(tasks.__name__, "--without-mingle", env={"ASYNCWORKER_HEALTH_FILE": str(path)})
    draining = client.tasks["t.thread_until"].delay(str(gate))
    node.wait_for_log(f"[{draining.id}] received")
    node.signal(signal.SIGTERM)
    until = time.monotonic() + 120
    while path.exists():
        assert time.monotonic() < until, node.log()
        time.sleep(0.02)
    time.sleep(2.5)  # two beats
    assert "is not there" in health(path).stderr
    gate.touch()
    assert node.wait() == 0
    assert not path.exists()


@pytest.mark.promise("health-says-whether-it-works")
def test_a_worker_that_cannot_consume_is_not_alive_until_it_does_again(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "health"

    def becomes(code: int, said: str = "") -> bool:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            seen = health(path, "--max-age", "2")
            if seen.returncode == code and said in seen.stderr:
                return True
        return False

    with running_valkey(tmp_path / "own") as server:
        env = {"ASYNCWORKER_HEALTH_FILE": str(path), "ASYNCWORKER_BROKER_URL": server.url()}
        node = worker(tasks.__name__, "--without-mingle", env=env)
        assert becomes(0)
        server.stop()
        assert becomes(1, "gave its last sign of life")
        server.start()
        assert becomes(0)
        assert node.stop() == 0


def test_a_probe_without_a_file_is_told_so() -> None:
    ended = asyncworker("health")
    assert ended.returncode == 2
    assert "ASYNCWORKER_HEALTH_FILE is not set" in ended.stderr


def test_a_health_folder_that_is_gone_does_not_cut_a_drain_short(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    """What ran when the worker was told to end is finished, though its file can be neither written nor removed."""
    folder, gate = tmp_path / "health", tmp_path / "gate"
    folder.mkdir()
    path = folder / "file"
    node = worker(tasks.__name__, "--without-mingle", env={"ASYNCWORKER_HEALTH_FILE": str(path)})
    running = client.tasks["t.thread_until"].delay(str(gate))
    node.wait_for_log(f"[{running.id}] received")
    shutil.rmtree(folder)
    folder.touch()  # a file now: neither is there a folder to write to, nor one to remove from
    node.wait_for_log("cannot write the health file")
    node.signal(signal.SIGTERM)
    node.wait_for_log("cannot remove the health file")
    gate.touch()
    assert node.wait() == 0, node.log()
    assert running.state == "SUCCESS"
    assert "Error on stopping Pool" not in node.log()


@pytest.mark.parametrize("what", ["a pipe", "a folder", "in no folder"])
def test_what_is_no_file_is_refused_as_health_file_and_left_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "health"
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case _:
            path = path / "file"
    before = path.lstat() if path.exists() else None
    with running_worker(tmp_path, env={"ASYNCWORKER_HEALTH_FILE": str(path)}, ready=False) as node:
        assert node.wait() == 1
        assert f"health_file is {str(path)!r}: " in node.log()
        assert "Traceback" not in node.log()
    assert (path.lstat() if path.exists() else None) == before


def test_what_took_the_place_of_the_health_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "health"
    file = HealthFile(path, lag_s=lambda: 0.0, most_lag_s=1.0, in_flight=lambda: 0)
    file.beat()
    path.unlink()
    os.mkfifo(path)
    file.beat()
    file.remove()
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]
