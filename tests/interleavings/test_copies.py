"""A delivery that ends, its copy that comes, and a connection that is lost, in every order: the task runs once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection

from asyncworker.worker import copies
from asyncworker.worker.copies import Copies, NotedSettlement
from asyncworker.worker.message import SENT_AS, Message

STEPS = ("connection lost", "first settled", "copy comes", "looked", "looked again")


@pytest.fixture
def channel() -> Iterator[Any]:
    with Connection("memory://") as connection:
        yield connection.default_channel


class Timer:
    """Of a consumer: calls when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_after(self, _delay_s: float, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def fire(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Worker:
    """What a consumer does with its messages.

    Attributes:
        runs: How often the task was begun.
        requeued: How often a message went back to the queue.
    """

    connection_errors: tuple[type[Exception], ...] = ()
    no_ack_consumers = None

    def __init__(self, channel: Any, name: str) -> None:
        self.timer = Timer()
        self.copies = Copies(self)
        self.runs = self.acknowledged = self.requeued = 0
        self._channel = channel
        self._name = name
        self._tags = itertools.count()

    def message(self, *, redelivered: bool, name: str | None = None) -> Any:
        payload = {
            "body": "",
            "headers": {"id": "one", "task": "t.one"},
            "properties": {"delivery_tag": str(next(self._tags)), "delivery_info": {"redelivered": redelivered}},
            SENT_AS: self._name if name is None else name,
        }
        message = Message(payload, channel=self._channel)
        message.channel = self
        return message

    def basic_ack(self, _tag: Any, **_options: Any) -> None:
        self.acknowledged += 1

    def basic_reject(self, _tag: Any, requeue: bool = False) -> None:
        self.requeued += requeue

    def receive(self, message: Any) -> Any:
        """Take a message; returns it where its task is run."""
        if self.copies.takes(message):
            return None
        self.runs += 1
        return message


def orders() -> list[tuple[str, ...]]:
    """In which a copy can come: not before there is a first delivery, and looked at twice in this order."""
    every = itertools.permutations(STEPS)
    return [order for order in every if order.index("looked") < order.index("looked again")]


@pytest.mark.parametrize("name", ["as it was sent", ""], ids=["named", "unnamed"])
@pytest.mark.parametrize("decided", ["acknowledged", "given back"])
def test_a_copy_ends_as_its_first_delivery_in_every_order(channel: Any, name: str, decided: str) -> None:
    for order in orders():
        worker = Worker(channel, name)
        first = worker.receive(worker.message(redelivered=False))
        for step in order:
            if step == "connection lost":
                worker.copies.connection_lost([first] if first is not None else [])
            elif step == "first settled":
                settle = first.ack_log_error if decided == "acknowledged" else first.reject_log_error
                NotedSettlement(settle)(copies.logger, (), *([True] if decided != "acknowledged" else []))
                settle = first = None  # and with it all that holds the delivery
            elif step == "copy comes":
                worker.receive(worker.message(redelivered=True))
            else:
                worker.timer.fire()
        # A copy that was waiting when the connection was lost comes again with the next one.
        if order.index("copy comes") < order.index("connection lost"):
            worker.receive(worker.message(redelivered=True))
            worker.timer.fire()
        lost_in_time = order.index("connection lost") < order.index("first settled")
        copy_in_time = order.index("copy comes") < order.index("first settled")
        if decided == "given back":
            assert worker.runs + worker.requeued >= 2, order
        elif lost_in_time or copy_in_time:
            assert worker.runs == 1, order


def test_a_message_that_is_sent_again_under_the_same_id_is_no_copy(channel: Any) -> None:
    worker = Worker(channel, "first")
    first = worker.receive(worker.message(redelivered=False))
    worker.copies.connection_lost([first])
    NotedSettlement(first.ack_log_error)(copies.logger, ())
    # Its worker has died: it comes here as one that was delivered before.
    assert worker.receive(worker.message(redelivered=True, name="second")) is not None
    assert worker.receive(worker.message(redelivered=True)) is None
