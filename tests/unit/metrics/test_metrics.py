"""Sums are exact whatever adds to them, and what is sent is what was counted."""

from __future__ import annotations

import io
import socket
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_fd_to_metric_families

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
    counters._reported.clear()


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
        sent, took = f"aw.{name}.shop_restock", f"aw.{name}.took"
        sums = {sent: BURST, f"{took}.count": BURST, f"{took}.seconds": BURST / 4}
        server.wait_until(lambda: all(server.counters[each] >= value for each, value in sums.items()))
        assert {each: server.counters[each] for each in sums} == sums


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


@pytest.mark.promise("statsd-away-costs-nothing")
def test_a_host_that_does_not_resolve_holds_up_nobody_and_nothing_is_lost(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    monkeypatch.setattr(statsd, "RESOLVE_EVERY_S", 0.04)
    with running_statsd() as server:
        sender = StatsdSender("statsd.invalid", server.port, "aw")
        sender.start()
        counter(name).add(7)
        give_up_at_s = time.monotonic() + 120
        while "cannot be reached, metrics wait" not in caplog.text:
            assert time.monotonic() < give_up_at_s
            time.sleep(0.02)
        sender._host = "127.0.0.1"  # as when the name has come into being
        server.wait_until(lambda: server.counters[f"aw.{name}"] == 7)
        sender.stop(60)
    assert caplog.text.count("cannot be reached") == 1


def test_an_exporter_that_moves_gets_what_is_counted_from_then_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    monkeypatch.setattr(statsd, "RESOLVE_EVERY_S", 0.04)
    collect_with("test", lambda: [Sample(f"{name}.gauge", "gauge", (), 1)])  # sent each time
    address = "127.0.0.1"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve(address if host == "moves" else host, *rest, **more)
    )
    with running_statsd() as first, running_statsd("127.0.0.2", first.port) as second:
        sender = StatsdSender("moves", first.port, "aw")
        sender.start()
        counter(name).add(7)
        first.wait_until(lambda: first.counters[f"aw.{name}"] == 7)
        address = "127.0.0.2"
        second.wait_until(lambda: second.datagrams)
        counter(name).add(5)
        second.wait_until(lambda: second.counters[f"aw.{name}"] == 5)
        sender.stop(60)
        assert first.counters[f"aw.{name}"] == 7


def test_sums_wait_for_an_exporter_that_is_away(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    with running_statsd() as server:
        sender = StatsdSender("localhost", server.port, "aw")
        sender.start()
        counter(name).add(7)
        server.wait_until(lambda: server.counters[f"aw.{name}"] == 7)
    counter(name).add(4)
    give_up_at_s = time.monotonic() + 120
    while "cannot be reached, metrics wait" not in caplog.text:
        assert time.monotonic() < give_up_at_s
        time.sleep(0.02)
    counter(name).add(1)
    with running_statsd(port=server.port) as back:
        back.wait_until(lambda: back.counters[f"aw.{name}"] == 5)
        sender.stop(60)
    assert caplog.text.count("cannot be reached") == 1


@pytest.mark.parametrize("first", ["127.0.0.2", "::1"])
def test_of_a_name_with_several_addresses_one_that_listens_is_found(
    name: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statsd, "EVERY_S", 0.02)
    resolve = socket.getaddrinfo

    def both(_host: str, *rest: Any, **more: Any) -> list[Any]:
        return [*resolve(first, *rest, **more), *resolve("127.0.0.1", *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with running_statsd() as server:
        sender = StatsdSender("several", server.port, "aw")
        sender.start()
        counter(name).add(7)
        server.wait_until(lambda: server.counters[f"aw.{name}"] == 7)
        sender.stop(60)


def test_what_statsd_cannot_take_keeps_nothing_else_back(name: str) -> None:
    values = {"nan": float("nan"), "inf": float("inf"), "none": None, "fine": 3, "a.b": 1, "a_b": 1}
    collect_with("test", lambda: [Sample(name, "gauge", (("limit", key),), value) for key, value in values.items()])  # type: ignore[arg-type]
    counter(name, task="").add(2)
    counter(name, task="long" * 30_000).add(3)
    with running_statsd() as server:
        sender = StatsdSender("127.0.0.1", server.port, "aw")
        sender.start()
        sender.stop(60)

        def long() -> list[float]:
            return [value for key, value in [*server.counters.items()] if key.startswith(f"aw.{name}.long")]

        server.wait_until(lambda: server.gauges.get(f"aw.{name}.fine") == 3 and server.counters[f"aw.{name}._"] == 2)
        # Limits whose names become one are counted together.
        server.wait_until(lambda: server.gauges.get(f"aw.{name}.a_b") == 2 and long() == [3])
        assert not {f"aw.{name}.{key}" for key in ("nan", "inf", "none")} & server.gauges.keys()


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


@pytest.mark.parametrize(
    "label",
    ["\udc80", "\ud800\udc00", "a\nb", "a\rb", "\0", 'a"b\\', "\u2028", "é", "\U0001f642", "", "x" * 100_000, None, 5],
    ids=ascii,
)
def test_the_page_can_be_read_whatever_a_label_is(name: str, label: Any) -> None:
    collect_with("test", lambda: [Sample("limit.held", "gauge", (("limit", label),), 4)])
    counter(name, task=label).add(3)
    page = PrometheusPage(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=60) as answer:
            families = list(text_fd_to_metric_families(io.StringIO(answer.read().decode(), newline="\n")))
    finally:
        page.stop()
    shown = str(label).encode(errors="backslashreplace").decode()
    found = {sample.name: sample for family in families for sample in family.samples if shown in sample.labels.values()}
    assert found["asyncworker_limit_held"].value == 4
    assert found[f"asyncworker_{name.replace('.', '_')}_total"].value == 3


@pytest.mark.parametrize("value", [None, "many", float("nan"), float("inf")])
def test_a_value_that_is_no_number_leaves_the_page_to_the_others(name: str, value: Any) -> None:
    collect_with("test", lambda: [Sample(f"{name}.odd", "gauge", (), value)])
    counter(name).add(3)
    page = PrometheusPage(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=60) as answer:
            assert f"asyncworker_{name.replace('.', '_')}_total 3.0" in answer.read().decode()
    finally:
        page.stop()


def test_a_collector_that_keeps_failing_is_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> list[Sample]:
        raise ValueError("no numbers today")

    collect_with("test", failing)
    for _ in range(5):
        samples()
    assert caplog.text.count("metrics could not be collected") == 1


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
    ("given", "expected"),
    [
        ("", ("", 8125)),
        ("stats", ("stats", 8125)),
        ("stats:9125", ("stats", 9125)),
        ("::1", ("::1", 8125)),
        ("[::1]", ("::1", 8125)),
        ("[::1]:9", ("::1", 9)),
    ],
)
def test_where_statsd_is(given: str, expected: tuple[str, int]) -> None:
    assert check_metrics(Settings(statsd=given)) == expected


@pytest.mark.parametrize("given", ["stats:", "stats:x", "stats:0", "stats:70000"])
def test_where_statsd_cannot_be(given: str) -> None:
    with pytest.raises(SettingsError, match="expected HOST or HOST:PORT"):
        check_metrics(Settings(statsd=given))
