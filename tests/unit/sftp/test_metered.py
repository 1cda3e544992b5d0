"""Sessions that pay for their bytes: each byte once, whatever was asked for, and one timer for all that wait."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncworker.sftp.bandwidth import Bandwidth
from asyncworker.sftp.metered import MeteredProtocol
from asyncworker.sftp.traffic import Traffic
from tests.servers import sftp_wire as wire


class Hands:
    """A clock whose hands the test moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Owner:
    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


def session(bandwidth: Bandwidth) -> tuple[MeteredProtocol, list[Any]]:
    answers: list[Any] = []
    protocol = MeteredProtocol(bandwidth, lambda: None, lambda: None, window_bytes=bandwidth.request_bytes)
    protocol.start()
    protocol.take_outgoing()
    protocol.feed(wire.version())
    return protocol, answers


def test_what_is_paid_is_what_went_over_the_wire() -> None:
    clock = Hands()
    bandwidth = Bandwidth(1_000_000, clock)  # type: ignore[arg-type]
    protocol, answers = session(bandwidth)
    before = bandwidth.room()
    protocol.read(b"h", 0, 100_000, answers.append, Owner())  # brings less than it asks for
    protocol.read(b"h", 0, 50_000, answers.append, Owner())  # is at the end
    protocol.opendir(b"/in", answers.append, Owner())
    sent = protocol.take_outgoing()
    assert bandwidth.room() == before - len(sent) - 150_000
    received = b"".join((wire.data(0, b"x" * 700), wire.status(1, 1), wire.handle(2, b"f")))
    for start in range(0, len(received), 100):  # in pieces, as networks have it
        protocol.feed(received[start : start + 100])
    assert len(answers) == 3
    assert bandwidth.room() == before - len(sent) - len(received)
    protocol.write(b"h", 0, b"x" * 1000, answers.append, Owner())
    protocol.readdir(b"f", answers.append, Owner())
    more = protocol.take_outgoing()
    listing = wire.names(4, *((b"%d" % number, wire.attributes(1, 0o100644, 1)) for number in range(1000)))
    protocol.feed(wire.status(3, 0) + listing)
    paid = len(sent) + len(received) + len(more) + len(wire.status(3, 0)) + len(listing)
    assert bandwidth.room() == before - paid


def test_requests_leave_in_order_and_no_faster_than_they_are_paid() -> None:
    clock = Hands()
    bandwidth = Bandwidth(80_000, clock)  # type: ignore[arg-type]
    protocol, answers = session(bandwidth)
    for number in range(100):
        protocol.write(b"h", number * 10_000, bytes([number]) * 10_000, answers.append, Owner())
    sent = b""
    while protocol.waits_to_send:
        sent += protocol.take_outgoing()
        assert len(sent) <= clock.now * 80_000 + 40_000
        clock.now += bandwidth.wait_s()
    assert [sent[place] for place in range(9_000, len(sent), len(sent) // 100)] == list(range(100))
    assert clock.now >= 10


async def test_one_timer_for_all_sessions_that_wait() -> None:
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    whole = loop.call_later

    def counted(delay: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return whole(delay, *rest, **more)

    class Sender:
        requests_out = bytes_out = 0

        def __init__(self) -> None:
            self.woken = asyncio.Event()

        def wake(self) -> None:
            self.woken.set()

    traffic = Traffic(1000, None, Bandwidth(1_000_000))
    senders = [Sender() for _ in range(100)]
    loop.call_later = counted  # type: ignore[method-assign,assignment]
    try:
        for sender in senders:
            traffic.join(sender)
            traffic.hold(sender)
        assert len(timers) == 1
    finally:
        del loop.call_later  # type: ignore[method-assign]
    for sender in senders:
        await sender.woken.wait()
    traffic.hold(senders[0])
    for sender in senders:
        traffic.leave(sender)
    assert traffic._timer is None
