"""The outbox: nothing is lost or left waiting, in any interleaving of writers and reader."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest

from asyncworker.worker.outbox import Outbox


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    outbox = Outbox()
    yield outbox
    outbox.close()


def readable(outbox: Outbox, timeout_s: float = 0) -> bool:
    return bool(select.select([outbox.fileno()], [], [], timeout_s)[0])


def test_many_events_are_one_wake_up(outbox: Outbox) -> None:
    seen: list[int] = []
    for number in range(5):
        outbox.put(lambda number=number: seen.append(number))  # type: ignore[misc]
    assert readable(outbox)
    outbox.drain()
    assert seen == [0, 1, 2, 3, 4]
    assert not readable(outbox)


def test_an_event_that_fails_does_not_hold_up_the_others(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def fails() -> None:
        raise OSError("broken")

    def leaves() -> None:
        raise SystemExit(3)

    for event in (fails, leaves, lambda: seen.append("last")):
        outbox.put(event)
    with pytest.raises(SystemExit):
        outbox.drain()
    assert seen == ["last"]
    assert "broken" in caplog.text


def test_an_event_left_while_draining_is_run_or_rings_again(outbox: Outbox) -> None:
    seen: list[str] = []
    outbox.put(lambda: outbox.put(lambda: seen.append("second")))
    while readable(outbox):
        outbox.drain()
    assert seen == ["second"]


def test_no_event_is_ever_left_waiting(outbox: Outbox) -> None:
    """Writers race a reader that sleeps in a poll; a lost wake-up would leave it there."""
    count, writers = 3000, 4
    seen: list[int] = []

    def write() -> None:
        for number in range(count):
            outbox.put(lambda number=number: seen.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    while len(seen) < count * writers:
        assert readable(outbox, timeout_s=120), f"stalled after {len(seen)} events"
        outbox.drain()
    for thread in threads:
        thread.join()


def test_one_that_was_closed_by_a_signal_handler_is_left_alone(outbox: Outbox) -> None:
    """Its descriptor was seen readable before."""
    outbox.put(lambda: None)
    assert readable(outbox)
    outbox.close()
    outbox.drain()
