"""A process that dies or freezes holds nothing up: another one takes what it had after a lease, by default settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.worker import Worker, pause_outside_transactions

MODULE = tasks.__name__
#: The shortest; no test here sets a visibility timeout, which is an hour then.
ENV = {"ASYNCWORKER_LEASE_S": "3"}
ITEMS = 60

pytestmark = pytest.mark.skipif("os.environ.get('ASYNCWORKER_TESTS_FAST') == '0'", reason="kombu's own transport")


@pytest.fixture
def broker(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url) as connection:
        yield connection


def until(found: Callable[[], object], what: str, *nodes: Worker, timeout_s: float = 120) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < give_up_at, f"no {what}\n" + "\n".join(node.log() for node in nodes)
        time.sleep(0.05)


@dataclass
class Work:
    """A fan-out, a long task, and short ones that wait for a slot; all of it acknowledged late."""

    client: Celery[Any]
    folder: Path
    results: list[Any] = field(default_factory=list)

    def send(self) -> None:
        item = self.client.tasks["t.item"].partial(log=str(self.folder / "items"), pause_s=0.4).options(concurrency=2)
        self.fan_out = item.iterate(number=range(ITEMS)).delay()
        self.long = self.send_late("long", 15)

    def send_short(self, count: int) -> None:
        for number in range(count):
            self.send_late(f"short-{number}", 0.1)

    def send_late(self, name: str, seconds: float) -> Any:
        link = self.client.tasks["t.logged_link"].si(str(self.folder / name))
        result = self.client.tasks["t.logged_late"].apply_async((str(self.folder / name), seconds), link=link)
        self.results.append(result)
        return result

    def log(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def shorts(self) -> list[list[str]]:
        return [self.log(path.name) for path in sorted(self.folder.glob("short-*"))]


@pytest.fixture
def work(client: Celery[Any], tmp_path: Path) -> Work:
    folder = tmp_path / "logs"
    folder.mkdir()
    return Work(client, folder)


def start_with_everything_held(worker: Callable[..., Worker], work: Work, broker: redis.Redis) -> Worker:
    """Start a worker that runs two and has the rest prefetched."""
    first = worker(MODULE, "--without-mingle", "-c", "2", "--prefetch-multiplier", "8", env=ENV, name="first@test")
    work.send()
    until(lambda: work.log("long") and len(work.log("items")) > 3, "beginning", first)
    work.send_short(5)
    until(lambda: broker.hlen("unacked") == 7, "prefetched messages", first)
    return first


@pytest.mark.promise("lease-returns-what-a-dead-process-held")
def test_what_a_killed_process_held_is_taken_after_a_lease(
    worker: Callable[..., Worker], work: Work, broker: redis.Redis
) -> None:
    first = start_with_everything_held(worker, work, broker)
    first.kill()
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    assert work.fan_out.get(timeout=120)["done"] == ITEMS
    for result in work.results:
        result.get(timeout=120)
    assert work.log("long").count("begun") == 2
    until(lambda: work.shorts() == [["begun", "ended", "linked"]] * 5, "one run of each short task", second)
    # Two were in flight, and what was done since the last checkpoint.
    items = sorted(map(int, work.log("items")))
    assert sorted(set(items)) == list(range(ITEMS))
    assert len(items) < ITEMS + 10
    until(lambda: not broker.hlen("unacked") and not broker.llen("celery"), "settled messages", second)
    until(lambda: broker.hlen("unacked.owners") == 1, "end of the dead owner", second)


@pytest.mark.promise("frozen-process-reports-nothing")
def test_a_process_that_was_frozen_gives_way_to_the_one_that_took_over(
    worker: Callable[..., Worker], work: Work, broker: redis.Redis, state_dir: Path
) -> None:
    first = start_with_everything_held(worker, work, broker)
    pause_outside_transactions(first, state_dir)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    second.wait_for_log("its 7 unacknowledged messages were returned to their queues")
    until(lambda: work.log("long").count("begun") == 2, "second beginning", second)
    first.resume()
    first.wait_for_log("its unacknowledged messages were returned to their queues; reconnecting")
    assert work.fan_out.get(timeout=120)["done"] == ITEMS
    for result in work.results:
        result.get(timeout=120)
    until(lambda: work.log("long").count("linked") == 1, "one outcome", first, second)
    until(lambda: work.shorts() == [["begun", "ended", "linked"]] * 5, "one run of each short task", first, second)
    until(lambda: not broker.hlen("unacked") and not broker.llen("celery"), "settled messages", first, second)
    assert second.stop() == 0
    # It has found its way back.
    assert work.client.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    assert first.stop() == 0
    assert work.log("long").count("linked") == 1
