"""Limits in real workers: of tasks, of items, over processes, and changed while all of it runs."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, group

from asyncworker import limit
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import SettingsError
from asyncworker.limits import use_limits_url
from asyncworker.limits.control import change_cluster_limit, cluster_limits
from asyncworker.limits.scripts import DECLARED
from tests.integration import limit_tasks
from tests.servers.command import asyncworker
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = limit_tasks.__name__

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def no_url_is_left() -> Iterator[None]:
    yield
    use_limits_url("")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "limits.log"


@pytest.fixture
def command(worker_env: dict[str, str]) -> Command:
    return lambda *arguments: asyncworker(*arguments, env=worker_env)


def most_at_once(log: Path) -> int:
    now = most = 0
    for line in log.read_text().splitlines():
        now += 1 if line == "+" else -1
        most = max(most, now)
    assert now == 0
    return most


def test_a_task_holds_a_permit_of_each_of_its_limits(
    client: Celery[Any], worker: Callable[..., Worker], log: Path
) -> None:
    worker(MODULE, env={limit_tasks.LOG: str(log)})
    task = client.tasks["l.task"]
    assert group(task.s(number) for number in range(20)).delay().get(timeout=GET_S) == list(range(20))
    assert most_at_once(log) == 2


def test_a_task_on_a_thread_holds_them_too(client: Celery[Any], worker: Callable[..., Worker], log: Path) -> None:
    worker(MODULE, env={limit_tasks.LOG: str(log)})
    task = client.tasks["l.sync"]
    assert group(task.s(number) for number in range(10)).delay().get(timeout=GET_S) == list(range(10))
    assert most_at_once(log) == 2


def test_what_is_no_limit_is_refused_where_it_is_declared(client: Celery[Any]) -> None:
    with pytest.raises(SettingsError, match="3 is no limit; expected limit"):

        @client.task(name="wrong", lazy=False, shared=False, limits=[3])
        async def wrong() -> None: ...


def test_a_key_may_be_an_argument(
    client: Celery[Any], worker: Callable[..., Worker], log: Path, tmp_path: Path
) -> None:
    worker(MODULE, env={limit_tasks.LOG: str(log)})
    gate = tmp_path / "gate"
    task = client.tasks["l.by_host"]
    held = task.delay("a", 1, gate=str(gate))
    waits = task.delay("a", 2)
    assert task.delay("b", number=3).get(timeout=GET_S) == 3
    assert not waits.ready()
    gate.touch()
    assert [held.get(timeout=GET_S), waits.get(timeout=GET_S)] == [1, 2]
    assert [line for line in log.read_text().splitlines() if line.startswith("a")] == ["a+", "a-", "a+", "a-"]

    # The items of a fan-out over it hold them too, with the fixed argument as the key.
    inline = task.partial(host="a").options(results="inline", concurrency=10)
    assert inline.iterate(number=range(5)).delay().get(timeout=GET_S) == list(range(5))
    assert [line for line in log.read_text().splitlines() if line.startswith("a")] == ["a+", "a-"] * 7


def test_items_of_several_workers_share_the_limit_of_the_cluster(
    client: Celery[Any], worker: Callable[..., Worker], log: Path
) -> None:
    for name in ("one@test", "two@test"):
        worker(MODULE, "-c", "1", name=name, env={limit_tasks.LOG: str(log)})
    limited = client.tasks["l.item"].partial().options(limits=[limit("of_cluster")], concurrency=10)
    runs = [limited.iterate(number=range(40)).delay() for _ in range(2)]
    for run in runs:
        run.get(timeout=GET_S)
        assert run.progress().done == 40
    assert most_at_once(log) == 3


def until_held(name: str, most: int) -> None:
    give_up_at_s = time.monotonic() + GET_S
    while True:
        found = {each.name: each for each in cluster_limits()}
        if name in found and sum(not each.waits for each in found[name].holders) == most:
            return
        assert time.monotonic() < give_up_at_s, found
        time.sleep(0.05)


@pytest.mark.timeout(600)
@pytest.mark.promise("limit-changes-in-use")
def test_limits_are_listed_and_changed_while_they_are_in_use(
    client: Celery[Any], worker: Callable[..., Worker], command: Command, tmp_path: Path, valkey: EmbeddedServer
) -> None:
    use_limits_url(valkey.redis_url)
    worker(MODULE, name="one@test")
    gate = tmp_path / "gate"
    gated = client.tasks["l.gated"].partial(gate=str(gate))
    run = gated.options(limits=["of_cluster"], name="nightly").iterate(number=range(20)).delay()
    local = gated.options(limits=["of_process"]).iterate(number=range(6)).delay()
    until_held("of_cluster", 3)
    while not local.progress().total:
        time.sleep(0.05)

    give_up_at_s = time.monotonic() + 2 * GET_S
    while True:  # the last may not have come to wait yet, and a busy worker may answer late
        listed = command("limits", "list", "--json")
        rows = {row["limit"]: row for row in map(json.loads, listed.stdout.splitlines())}
        waiting = {name: rows[name]["waiting"] for name in ("of_cluster", "of_process") if name in rows}
        if waiting == {"of_cluster": 17, "of_process": 4}:
            break
        assert time.monotonic() < give_up_at_s, (rows, listed.stderr)
    assert {"of_cluster", "of_process", "by_host"} <= rows.keys(), listed.stderr
    cluster, process = rows["of_cluster"], rows["of_process"]
    assert (cluster["where"], cluster["amount"], cluster["held"], cluster["waiting"]) == ("cluster", 3, 3, 17)
    assert cluster["holders"][0].startswith("nightly item 0 in ")
    assert (process["where"], process["amount"], process["held"], process["waiting"]) == ("one@test", 2, 2, 4)

    answer = command("limits", "set", "of_cluster", "5")
    assert answer.stdout.startswith("of_cluster: 5, in the cluster"), answer.stderr
    until_held("of_cluster", 5)
    assert command("limits", "set", "of_process", "4").stdout == "of_process: 4, in one@test\n"
    wrong = command("limits", "set", "of_clutser", "4")
    assert wrong.returncode == 1
    assert "known: by_host, of_cluster, of_process, rate" in wrong.stderr
    changed = r"of_process\W+one@test\W+semaphore\W+4\W+4\W+2"
    while not re.search(changed, shown := command("limits", "list").stdout):
        assert time.monotonic() < give_up_at_s, shown
    assert "nightly item 4" in shown

    gate.touch()
    run.get(timeout=GET_S)
    local.get(timeout=GET_S)


def test_numbers_that_a_limit_cannot_have_are_refused(valkey: EmbeddedServer) -> None:
    use_limits_url(valkey.redis_url)
    with redis.Redis.from_url(valkey.redis_url) as connection:
        connection.hset(DECLARED, "s", json.dumps({"kind": "semaphore", "permits": 3}))
    assert not change_cluster_limit("unknown", 3)
    for wrong in (0, -1, 2.5):
        with pytest.raises(SettingsError, match="is not allowed"):
            change_cluster_limit("s", wrong)
    assert change_cluster_limit("s", 4)
    (found,) = cluster_limits()
    assert (found.amount, found.declared, found.holders) == (4, 3, [])
