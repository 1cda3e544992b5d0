"""Results of fan-outs as a client reads them: on its own event loop, in a script, from another process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from asyncworker import AsyncTask, IterateResult
from asyncworker.errors import RunExpired, RunNotFound
from tests.integration import tasks
from tests.servers.worker import ROOT, Worker

GET_S = 120.0
MODULE = tasks.__name__

SCRIPT = """
import asyncio, json, sys
from asyncworker import IterateResult, app

async def main():
    async for pair in IterateResult(sys.argv[1], app=app).stream(order="completion"):
        print(json.dumps(pair), flush=True)

asyncio.run(main())
"""


def test_a_notice_that_came_before_is_not_waited_for(
    worker: Callable[..., Worker], client: Celery[AsyncTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(MODULE, "--without-mingle")
    results = [client.tasks["t.sync_double"].delay(number) for number in range(20)]
    consumer = client.backend.result_consumer
    give_up_at_s = time.monotonic() + GET_S
    while consumer.subscribed_to and time.monotonic() < give_up_at_s:
        consumer.drain_events(timeout=0.1)

    def wait(timeout: float | None = None) -> None:
        raise AssertionError("it waits for what has come")

    monkeypatch.setattr(consumer, "drain_events", wait)
    for _ in range(2):
        assert [result.get(timeout=GET_S)[0] for result in results] == [2 * number for number in range(20)]
    assert not consumer.subscribed_to


@pytest.mark.promise("results-in-bounded-memory")
def test_while_it_runs_on_any_loop_in_a_script_and_from_another_process(
    worker: Callable[..., Worker], client: Celery[AsyncTask], worker_env: dict[str, str], tmp_path: Path
) -> None:
    worker(MODULE, "--without-mingle")
    gate = tmp_path / "gate"
    gated = client.tasks["t.gated"].partial(gate=str(gate)).options(concurrency=50, checkpoint_every_s=0.05)
    result = gated.iterate(number=range(300)).delay()

    async def first_ten_then_all() -> list[tuple[int, int]]:
        found = []
        async for pair in result.stream(order="completion"):
            found.append(pair)
            if len(found) == 10:
                # All that does not wait for the gate; the others are finished once it is there.
                assert sorted(found) == [(n, n) for n in range(10)]
                assert not result.progress().ended  # from another thread's loop: ours
                await asyncio.to_thread(gate.touch)
        return found

    command = [sys.executable, "-c", SCRIPT, result.id]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_environment(worker_env)) as other:
        assert sorted(asyncio.run(first_ten_then_all())) == [(n, n) for n in range(300)]
        printed, _ = other.communicate(timeout=GET_S)
    assert sorted(json.loads(line) for line in printed.splitlines()) == [[n, n] for n in range(300)]
    assert list(result.iter_results()) == [(n, n) for n in range(300)]
    assert sorted(result.iter_results(order="completion")) == [(n, n) for n in range(300)]
    assert result.results() == list(range(300))


@pytest.fixture
def node(worker: Callable[..., Worker]) -> Worker:
    return worker(MODULE, "--without-mingle")


async def test_on_the_loop_of_pytest_and_left_half_way(node: Worker, client: Celery[AsyncTask]) -> None:
    result = await client.tasks["t.item"].iterate(number=range(1000)).adelay()
    assert isinstance(result, IterateResult)
    while not (await result.aprogress()).ended:
        await asyncio.sleep(0.02)
    found = []
    stream = result.stream()
    async for pair in stream:
        found.append(pair)
        if len(found) == 500:
            break
    await stream.aclose()
    assert found == [(n, 2 * n) for n in range(500)]
    with pytest.raises(RunNotFound):
        async for _ in IterateResult("nobody", app=client).stream():
            pass


def test_large_results_through_a_worker(
    worker: Callable[..., Worker], client: Celery[AsyncTask], state_dir: Path
) -> None:
    worker(MODULE, "--without-mingle")
    result = client.tasks["t.repeat"].iterate(text=["ab", "c"], times=[1, 200_000]).delay()
    result.get(timeout=GET_S)
    assert result.results() == ["ab", "ab" * 200_000, "c", "c" * 200_000]
    sizes = [path.stat().st_size for path in (state_dir / "payloads" / "results").rglob("*") if path.is_file()]
    assert sorted(sizes) == [200_002, 400_002]
    assert (state_dir / "store.sqlite").stat().st_size < 200_000


@pytest.mark.promise("finished-runs-are-deleted")
def test_old_runs_are_deleted(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    worker(MODULE, "--without-mingle", env={"ASYNCWORKER_RUNS_KEEP_S": "1"})
    result = client.tasks["t.item"].iterate(number=[1]).delay()
    result.get(timeout=GET_S)
    until = time.monotonic() + GET_S
    with pytest.raises(RunExpired, match=f"run {result.id} of t.item ended"):
        while result.progress():
            assert time.monotonic() < until
            time.sleep(0.05)


def _environment(worker_env: dict[str, str]) -> dict[str, str]:

    return {**os.environ, **worker_env, "PYTHONPATH": str(ROOT)}
