"""What the log says of items: in which one a record was made, and how many have failed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from asyncworker.clock import SYSTEM_CLOCK
from asyncworker.errors import ItemErrors, RunTimeout
from asyncworker.iterate import MemoryRecorder, make_options, mark_records, run_items, source_of
from asyncworker.iterate.item_logging import FIELDS, FailureLog
from asyncworker.store import ItemFailure
from tests.unit.iterate.clocks import EPOCH, ManualClock

logger = logging.getLogger("somebody.elses.library")


@pytest.fixture
def marked() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    mark_records()
    yield
    logging.setLogRecordFactory(before)


async def run(call: Any, values: Any, **options: Any) -> Any:
    recorder = MemoryRecorder("run", "task")
    return await run_items(
        call, source_of({"x": values}), make_options(**options), recorder=recorder, clock=SYSTEM_CLOCK
    )


@pytest.mark.usefixtures("marked")
@pytest.mark.promise("log-records-name-their-item")
async def test_every_record_tells_its_item(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def child(value: str) -> None:
        await asyncio.sleep(0)
        logger.info("%s in a child task", value)

    async def call(row: dict[str, Any]) -> None:
        value = row["x"]
        logger.info("%s first", value)
        async with asyncio.TaskGroup() as group:
            group.create_task(child(value))
        await asyncio.to_thread(logger.info, "%s in a thread", value)
        # Names of their own are the user's.
        logger.info("%s with extras", value, extra={"index": "mine", "key": "mine", "run_id": "mine"})

    await run(call, ["a", "b", "c"], concurrency=2, key="x")
    logger.info("outside")
    outside = caplog.records.pop()
    assert [getattr(outside, name) for name in FIELDS] == [None] * 4
    assert len(caplog.records) == 12
    for record in caplog.records:
        value = record.getMessage()[0]
        assert [getattr(record, name) for name in FIELDS] == ["abc".index(value), value, 1, "run"]
    assert {record.index for record in caplog.records if "extras" in record.getMessage()} == {"mine"}


@pytest.mark.usefixtures("marked")
async def test_the_attempt_is_that_of_the_record(caplog: pytest.LogCaptureFixture) -> None:
    async def call(row: dict[str, Any]) -> None:
        logger.warning("tried")
        raise ValueError

    await run(call, [1], retries=2, backoff_s=0)
    assert [record.item_attempt for record in caplog.records if record.name == logger.name] == [1, 2, 3]


def test_the_factory_that_is_set_is_kept_and_wrapped_once() -> None:
    before = logging.getLogRecordFactory()

    def own(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.own = True
        return record

    logging.setLogRecordFactory(own)
    try:
        mark_records()
        ours = logging.getLogRecordFactory()
        mark_records()
        assert logging.getLogRecordFactory() is ours
        record = logger.makeRecord("name", logging.INFO, "file", 1, "text", (), None)
        assert record.own
        assert record.item_index is None
    finally:
        logging.setLogRecordFactory(before)


def failure(index: int) -> ItemFailure:
    return ItemFailure(
        index=index, key=f"x={index}", type="ValueError", message="no", attempt=1, traceback="", at=EPOCH
    )


@pytest.mark.promise("failures-take-few-log-lines")
async def test_failures_after_the_first_are_summed_up_every_so_often(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    log = FailureLog("nightly", clock)
    for index in range(FailureLog.FIRST + 500):
        log.failed(failure(index))
    assert len(caplog.records) == FailureLog.FIRST
    await clock.advance(FailureLog.EVERY_S)
    for index in range(1000, 2000):
        log.failed(failure(index))
    assert len(caplog.records) == FailureLog.FIRST + 1
    assert caplog.messages[-1] == "run nightly: 501 more items failed; the last: item 1000 (x=1000): ValueError: no"
    log.flush()
    log.flush()
    assert caplog.messages[FailureLog.FIRST + 1 :] == [
        "run nightly: 999 more items failed; the last: item 1999 (x=1999): ValueError: no"
    ]


@pytest.mark.promise("failures-take-few-log-lines")
async def test_all_failures_of_a_run_are_told_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def call(row: dict[str, Any]) -> None:
        raise ValueError(row["x"])

    outcome = await run(call, range(5000), name="nightly")
    more = re.fullmatch(r"run nightly \(run\): ([\d,]+) more items failed; the last: item 4999.*", caplog.messages[-1])
    assert more is not None
    told = len([text for text in caplog.messages if "more items" not in text])
    assert told == FailureLog.FIRST
    with pytest.raises(ItemErrors, match=r"nightly: 5,000 of 5,000 items failed; first: item 0 \(x=0\)"):
        outcome.raise_for_failures()


async def test_a_run_that_takes_too_long_tells_its_name() -> None:
    async def call(row: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RunTimeout, match=r"run nightly \(run\) took longer than 0\.01 s"):
        await run(call, [1], total_timeout_s=0.01, name="nightly")
