"""Sums are exact whatever adds to them, and what is sent is what was counted."""

from __future__ import annotations

import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from asyncworker import counters
from asyncworker.counters import Sample, collect_with, counter, samples, summary
from asyncworker.errors import SettingsError
from asyncworker.limits import Semaphore, limits
from asyncworker.metrics import check_metrics, statsd
from asyncworker.metrics.names import METRICS, full_names
from asyncworker.metrics.prometheus import PrometheusPage
from asyncworker.metrics.standing import limits_standing, pools_standing
from asyncworker.metrics.statsd import StatsdSender
from asyncworker.resources import Pool
from asyncworker.settings import Settings
from tests import metrics_table
from tests.servers.statsd import running_statsd

BURST = 100_000


@pytest.fixture
def name() -> Iterator[str]:
    """Of a metric that no other test has."""
    yield f"test.{uuid.uuid4().hex[:8]}"
    counters._collectors.pop("test", None)


def test_a_burst_arrives_exactly(name: str) -> None:
    with running_statsd() as server:
        sender = StatsdSender("127.0.0.1", server.port, "aw")
        sender.start()
        counted = counter(name, task="shop.restock")
        timed = summary(f"{name}.took")

        def burst() -> None:
            for _ in range(BURST // 4):
                counted.add()
                timed.add(0.25)

        threads = [threading.Thread(target=burst) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sender.stop(60)  # sends what is left
        sent = f"aw.{name}.shop_restock"
        server.wait_until(lambda: server.counters[sent] >= BURST)
        assert server.counters[sent] == BURST
        assert server.counters[f"aw.{name}.took.count"] == BURST
        assert server.counters[f"aw.{name}.took.seconds"] == BURST / 4


def test_gauges_are_sent_as_they_stand_and_counters_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    value = 3.5
    collect_with("test", lambda: [Sample(name, "gauge", (), value)])
    with running_statsd() as server:
        sender = StatsdSender("127.0.0.1", server.port, "aw")
        sender.start()
        counter(f"{name}.n").add(2)
        server.wait_until(lambda: server.gauges.get(f"aw.{name}") == 3.5 and server.counters[f"aw.{name}.n"])
        value = 0
        before = server.datagrams
        server.wait_until(lambda: server.gauges[f"aw.{name}"] == 0 and server.datagrams > before + 3)
        sender.stop(60)
        assert server.counters[f"aw.{name}.n"] == 2


def test_a_host_that_does_not_resolve_holds_up_nobody_and_nothing_is_lost(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    monkeypatch.setattr(statsd, "RESOLVE_EVERY_S", 0.04)
    with running_statsd() as server:
        sender = StatsdSender("statsd.invalid", server.port, "aw")
        sender.start()
        counter(name).add(7)
        give_up_at_s = time.monotonic() + 60
        while "cannot be reached, metrics wait" not in caplog.text:
            assert time.monotonic() < give_up_at_s
            time.sleep(0.02)
        sender._host = "127.0.0.1"  # as when the name has come into being
        server.wait_until(lambda: server.counters[f"aw.{name}"] == 7)
        sender.stop(60)
    assert caplog.text.count("cannot be reached") == 1


def test_prometheus_gets_the_same(name: str) -> None:
    counter(name, task="shop.restock").add(3)
    collect_with("test", lambda: [Sample("executor.open_slots", "gauge", (), 5)])
    page = PrometheusPage(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    finally:
        page.stop()
    assert f'asyncworker_{name.replace(".", "_")}_total{{task="shop.restock"}} 3.0' in text
    assert "asyncworker_executor_open_slots 5.0" in text
    assert "# HELP asyncworker_executor_open_slots tasks: free places" in text
    assert "# TYPE asyncworker_executor_open_slots gauge" in text


async def test_limits_and_pools_tell_how_they_stand() -> None:
    async def connect():  # type: ignore[no-untyped-def]
        yield 1

    before = dict(limits)
    semaphore = Semaphore("told", 2)
    pool = Pool(connect, name="told", size=3)
    async with pool.connection():
        await semaphore.acquire("a")
        await semaphore.acquire("b")
        found = {
            (sample.name, dict(sample.labels).get("limit") or dict(sample.labels).get("pool")): sample.value
            for sample in [*limits_standing(), *pools_standing()]
        }
    await pool.close()
    limits.clear()
    limits.update(before)
    assert found["limit.held", "told"] == found["limit.acquired", "told"] == 2
    assert found["pool.lent", "told"] == found["pool.opened", "told"] == 1
    assert found["pool.size", "told"] == 3
    assert found["scheduler.tasks.starving", None] == 0
    assert {name for name, _ in found} <= full_names().keys()


def test_a_collector_whose_objects_change_is_asked_again(name: str) -> None:
    asked = 0

    def collect() -> list[Sample]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("Set changed size during iteration")
        return [Sample(name, "gauge", (), 1)]

    collect_with("test", collect)
    assert [sample.value for sample in samples() if sample.name == name] == [1]


def test_the_table_of_the_readme_is_that_of_the_names() -> None:
    assert metrics_table.written() == metrics_table.table(), "run: python -m tests.metrics_table"
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_bad_label_and_a_failing_collector_leave_the_page_to_the_others(name: str) -> None:
    def failing() -> list[Sample]:
        raise ValueError("no numbers today")

    collect_with("test", failing)
    counter(name, task="shop.\udc80").add(3)
    counter(name, task="shop.é").add(4)
    page = PrometheusPage(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        page.stop()
    shown = "asyncworker_" + name.replace(".", "_")
    assert f'{shown}_total{{task="shop.\\\\udc80"}} 3.0' in text
    assert f'{shown}_total{{task="shop.é"}} 4.0' in text


@pytest.mark.parametrize(
    ("given", "expected"), [("", ("", 8125)), ("stats", ("stats", 8125)), ("stats:9125", ("stats", 9125))]
)
def test_where_statsd_is(given: str, expected: tuple[str, int]) -> None:
    assert check_metrics(Settings(statsd=given)) == expected


@pytest.mark.parametrize("given", ["stats:", "stats:x", "stats:0", "stats:70000"])
def test_where_statsd_cannot_be(given: str) -> None:
    with pytest.raises(SettingsError, match="expected HOST or HOST:PORT"):
        check_metrics(Settings(statsd=given))
