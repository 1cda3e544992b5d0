"""``asyncworker runs`` and ``asyncworker top``, as a user calls them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from asyncworker import AsyncTask
from asyncworker.errors import RunCancelled
from tests.integration import tasks
from tests.servers.command import asyncworker
from tests.servers.worker import Worker


@pytest.fixture
def asyncworker_command(worker_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return asyncworker(*arguments, env=worker_env)

    return run


def test_a_run_is_listed_shown_watched_cancelled_and_resumed(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    asyncworker_command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    worker(tasks.__name__, "--without-mingle")
    gate = tmp_path / "gate"
    gated = client.tasks["t.gated"].partial(gate=str(gate)).options(concurrency=2, checkpoint_every_s=0.05)
    result = gated.iterate(number=range(400)).delay()
    while not result.progress().done:
        time.sleep(0.02)

    (listed,) = asyncworker_command("runs", "list", "--json").stdout.splitlines()
    assert json.loads(listed)["run_id"] == result.id
    assert result.id in asyncworker_command("runs", "list").stdout

    assert asyncworker_command("runs", "cancel", result.id).returncode == 0
    watched = asyncworker_command("runs", "watch", "--json", result.id)
    assert watched.returncode == 1
    last = json.loads(watched.stdout.splitlines()[-1])
    assert last["state"] == "cancelled"
    assert last["rate"] > 0
    assert last["remaining_s"] > 0

    gate.touch()
    assert asyncworker_command("runs", "resume", result.id).returncode == 0
    watched = asyncworker_command("runs", "watch", result.id)
    assert watched.returncode == 0
    assert re.match(r"done: 400 of 400 \([\d,]+/s\)", watched.stdout.splitlines()[-1])
    answer = asyncworker_command("runs", "cancel", result.id)
    assert answer.stdout == f"run {result.id}: has ended, done; there is nothing to stop\n", answer.stderr


def test_failed_items_are_shown(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    asyncworker_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    worker(tasks.__name__, "--without-mingle")
    result = client.tasks["t.picky"].iterate(number=range(10)).delay()
    with pytest.raises(ValueError, match="not wanted"):
        result.get(timeout=120)
    shown = asyncworker_command("runs", "show", result.id)
    assert "item 7 (number=7): ValueError: 7 is not wanted" in shown.stdout
    hostile = (
        client.tasks["t.picky"].partial().options(key="number", name="\x1b[31m\nforged").iterate(number=["\x1b[2J"])
    )
    with pytest.raises(TypeError):
        hostile.apply_async(task_id="hostile").get(timeout=120)
    for command in (["show", "hostile"], ["list"], ["watch", "hostile"]):
        output = asyncworker_command("runs", *command).stdout
        assert all(line.isprintable() for line in output.splitlines())
        assert "\nforged" not in output
    unknown = asyncworker_command("runs", "show", "nobody")
    assert unknown.returncode == 1
    assert "no run 'nobody' in the store" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_top(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    asyncworker_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert asyncworker_command("top", "--once").returncode == 1  # nobody answers
    node = worker(tasks.__name__, "--without-mingle")
    waiting = client.tasks["t.sleep"].delay(60)
    node.wait_for_log(f"t.sleep[{waiting.id}] received")

    def top_until(*words: str) -> str:
        """A busy worker may answer late, and what was received may not have started."""
        give_up_at_s = time.monotonic() + 120
        while not all(
            word in (shown := asyncworker_command("top", "--once", "--interval", "3")).stdout for word in words
        ):
            assert time.monotonic() < give_up_at_s, shown
        return shown.stdout

    assert "workers: 1, tasks in flight: 1" in top_until("await asyncio.sleep(seconds)")
    seen = json.loads(asyncworker_command("top", "--once", "--json", "--interval", "10").stdout)
    assert seen[node.name]["jobs"][0]["id"] == waiting.id
    waiting.revoke(terminate=True)
    items = client.tasks["t.sleep"].partial().options(concurrency=8, key="seconds").iterate(seconds=range(60, 100))
    run = items.delay()
    node.wait_for_log(f"asyncworker.iterate[{run.id}] received")
    while True:
        looked = json.loads(asyncworker_command("top", "--once", "--json", "--interval", "3").stdout)
        jobs = looked.get(node.name, {"jobs": []})["jobs"]
        if [item["key"] for job in jobs for item in job.get("items", [])] == list(range(60, 68)):
            break
    assert "item 0 60" in top_until("and 3 more items")
    run.cancel()


def test_text_that_is_not_unicode_is_shown_as_json(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    asyncworker_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Half a surrogate pair, as in a file name: in a key, and in a source's error."""
    worker(tasks.__name__, "--without-mingle")
    half = "a\udcff"
    keyed = client.tasks["t.picky"].partial().options(key="number").iterate(number=[half]).delay()
    listed = client.tasks["t.picky"].iterate(number=client.tasks["t.lines"].s(f"/nowhere/{half}")).delay()
    for result in (keyed, listed):
        with pytest.raises(Exception, match=r"."):
            result.get(timeout=120)
    shown = asyncworker_command("runs", "show", "--json", keyed.id)
    assert json.loads(shown.stdout.splitlines()[1])["key"] == half, shown.stderr
    for command in (["list", "--json"], ["show", "--json", listed.id], ["watch", "--json", listed.id]):
        answer = asyncworker_command("runs", *command)
        assert listed.id in [json.loads(line).get("run_id") for line in answer.stdout.splitlines()], answer.stderr


def test_a_run_that_no_worker_has_begun_is_cancelled_and_that_is_taken_back(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    asyncworker_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    stopped, kept = (client.tasks["t.picky"].iterate(number=[1, 2]).delay() for _ in range(2))
    for result in (stopped, kept):
        answer = asyncworker_command("runs", "cancel", result.id)
        # As of one that nobody has sent: only its message shows the difference.
        assert (answer.returncode, "no worker has begun it, or there is no such run" in answer.stderr) == (1, True)
    answer = asyncworker_command("runs", "resume", kept.id)
    assert answer.stdout == f"run {kept.id}: no longer cancelled; its message waits for a worker\n", answer.stderr
    worker(tasks.__name__, "--without-mingle")
    with pytest.raises(RunCancelled):
        stopped.get(timeout=120)
    assert kept.get(timeout=120)["done"] == 2
    for command in ("resume", "show", "watch", "cancel", "retry-failed"):
        for run_id in ("nobody", ""):
            answer = asyncworker_command("runs", command, run_id)
            assert answer.returncode
            assert "Traceback" not in answer.stderr
