"""Fan-outs whose worker dies, whose message comes twice, that are very long."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from celery import Celery

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.redelivery import redeliver, wait_until_none_is_given
from tests.servers.worker import Worker, pause_outside_transactions

GET_S = 120.0
MODULE = tasks.__name__


@pytest.mark.promise("killed-run-resumes")
def test_kill_and_redelivery_run_only_what_is_left(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """The worker dies by SIGKILL; the message comes again; the run goes on where its checkpoint stands."""
    count, concurrency = 3000, 20
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.04, log=str(log)).options(concurrency=concurrency)
    result = fan_out.iterate(number=range(count)).delay()
    while result.progress().done < count / 3:
        time.sleep(0.02)
    first.kill()
    first.wait()
    held = result.progress().done
    ended = len(log.read_text().split())
    redeliver(valkey)
    worker(MODULE, "--without-mingle", name="second@test", env={"ASYNCWORKER_LEASE_S": "3"})
    assert result.get(timeout=GET_S)["resumed"] == held
    assert result.results() == [2 * n for n in range(count)]
    runs = Counter(log.read_text().split())
    assert len(runs) == count
    # Once more: what had ended since the last checkpoint. What was in flight had not come to its line in the log.
    assert sum(runs.values()) == count + ended - held
    assert count / 3 <= held < count


@pytest.mark.promise("second-delivery-runs-nothing")
def test_a_finished_run_that_is_delivered_again_runs_nothing(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker(MODULE, "--without-mingle")
    result = client.tasks["t.item"].partial(log=str(log)).iterate(number=range(10)).delay()
    first = result.get(timeout=GET_S)
    again = result.resume().get(timeout=GET_S)
    assert again["done"] == first["done"] == 10
    assert len(log.read_text().split()) == 10


def test_memory_is_flat_over_a_long_source(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    node = worker(MODULE, "--without-mingle")
    process = psutil.Process(node.pid)
    items = client.tasks["t.item"].partial().options(results="none")
    items.iterate(number=client.tasks["t.numbers"].s(20_000)).delay().get(timeout=GET_S)
    before_bytes = process.memory_info().rss
    result = items.iterate(number=client.tasks["t.numbers"].s(100_000)).delay()
    assert result.get(timeout=GET_S)["done"] == 100_000
    assert process.memory_info().rss - before_bytes < 20_000_000


@pytest.mark.promise("sigterm-puts-the-run-back")
def test_sigterm_puts_the_run_back_and_another_worker_goes_on(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    """A rolling deploy: nobody resumes by hand, and no item runs twice."""
    count = 1500
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.06, log=str(log)).options(concurrency=20)
    result = fan_out.iterate(number=client.tasks["t.numbers"].s(count)).delay()
    while result.progress().done < count / 4:
        time.sleep(0.02)
    assert first.stop() == 0
    assert "stopped early; another attempt goes on from its checkpoint" in first.log()
    assert "Traceback" not in first.log()
    stopped = result.progress()
    assert stopped.state == "pending"
    assert stopped.done == len(log.read_text().split())
    assert stopped.done < count
    worker(MODULE, "--without-mingle", name="second@test")
    assert result.get(timeout=GET_S)["done"] == count
    assert result.results() == [2 * n for n in range(count)]
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1


def test_sigterm_cuts_items_that_outlast_the_grace(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    node = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_DRAIN_GRACE_S": "0.2"})
    result = client.tasks["t.item"].partial(pause_s=600).iterate(number=[1, 2]).delay()
    while result.progress().state != "running":
        time.sleep(0.02)
    assert node.stop() == 0
    assert (result.progress().state, result.progress().done) == ("pending", 0)


@pytest.mark.promise("late-ack-task-runs-once")
def test_a_message_that_comes_again_while_its_run_is_held_waits(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """Longer than the visibility timeout, and yet every item runs once, and what is linked to it."""
    count = 3000
    gate, log, links = tmp_path / "gate", tmp_path / "log", tmp_path / "links"
    first = worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.gated_logged"].partial(gate=str(gate), log=str(log)).options(concurrency=20)
    link = client.tasks["t.logged_link"].si(str(links))
    result = fan_out.iterate(number=range(count)).apply_async(link=link)
    while not result.progress().done:
        time.sleep(0.02)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", name="second@test")

    def times(event: str) -> int:
        return (first.log() + second.log()).count(f"asyncworker.iterate[{result.id}] {event}")

    again = "is delivered again to this process"
    while times("received") + times(again) < 2:  # by either of the two
        time.sleep(0.02)
    assert times("succeeded") == 0
    gate.touch()
    assert result.get(timeout=GET_S)["done"] == count
    while times("ignored") + times(again) < 1 or not times("succeeded"):
        time.sleep(0.02)
    while not re.search(r"t\.logged_link\[\S+ succeeded", first.log() + second.log()):
        time.sleep(0.02)
    assert times("succeeded") == 1
    assert links.read_text() == "linked\n"
    assert len(log.read_text().split()) == count
    assert "taking it over" not in first.log() + second.log()
    assert result.progress().attempt == 1


@pytest.mark.promise("frozen-holder-changes-nothing")
def test_a_frozen_holder_is_taken_over_and_its_late_writes_are_refused(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    valkey: EmbeddedServer,
    state_dir: Path,
    tmp_path: Path,
) -> None:
    count, concurrency = 600, 20
    log = tmp_path / "log"
    env = {"ASYNCWORKER_LEASE_S": "3"}
    first = worker(MODULE, "--without-mingle", env=env)
    fan_out = client.tasks["t.item"].partial(pause_s=0.2, log=str(log)).options(concurrency=concurrency)
    result = fan_out.iterate(number=range(count)).delay()
    while result.progress().done < count / 4:
        time.sleep(0.02)
    pause_outside_transactions(first, state_dir)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=env, name="second@test")
    second.wait_for_log("taking it over")
    first.resume()
    first.wait_for_log("another process holds it now")
    assert result.get(timeout=GET_S)["done"] == count
    assert result.results() == [2 * n for n in range(count)]
    runs = Counter(log.read_text().split())
    assert len(runs) == count
    # Once more: what was in flight when it froze, and what it ran until its first write was refused.
    assert sum(runs.values()) <= count + concurrency * 10


@pytest.mark.parametrize("transport", ["fast", "stock"])
def test_a_holder_that_was_taken_over_leaves_the_message_to_the_other(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    valkey: EmbeddedServer,
    state_dir: Path,
    tmp_path: Path,
    transport: str,
) -> None:
    """kombu gives both deliveries the same tag: who acknowledges one takes it from the other, which may die yet."""
    env = {"ASYNCWORKER_LEASE_S": "3", "ASYNCWORKER_FAST_BROKER": "1" if transport == "fast" else "0"}
    gate = tmp_path / "gate"
    first = worker(MODULE, "--without-mingle", env=env)
    result = client.tasks["t.gated"].partial(gate=str(gate)).iterate(number=range(20)).delay()
    while result.progress().done < 10:
        time.sleep(0.02)
    pause_outside_transactions(first, state_dir)
    if transport == "stock":
        wait_until_none_is_given(valkey)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=env, name="second@test")
    second.wait_for_log("taking it over")
    first.resume()
    first.wait_for_log("another process holds it now")
    assert first.stop() == 0
    second.kill()
    second.wait()
    redeliver(valkey)
    gate.touch()
    worker(MODULE, "--without-mingle", env=env, name="third@test")
    assert result.get(timeout=GET_S)["done"] == 20
