"""Scenarios: when a message is acknowledged, and what becomes of it."""

from __future__ import annotations

import json

from tests.parity.side import Driver, scenario
from tests.parity.tasks_more import ENDS, MATRIX, acks_name


def _matrix(do: Driver, end: str) -> None:
    names = [acks_name(*settings) for settings in MATRIX]
    for name in names:
        do.send(name, end, id=name, **({"time_limit": 1} if end == "timeout" else {}))
        if end == "lost":
            # One after the other: prefork runs a task twice whose message was on its way to a process that died.
            do.wait(name)
    for name in names:
        do.wait(name)
    for name in names:
        do.until(f"{name} is settled", lambda name=name: not do.unacknowledged(name), 15)
        do.fact(f"{name} is unacknowledged", do.unacknowledged(name))


for _end in ENDS:
    scenario(f"acks: the task ends by {_end}", alone=_end == "lost", stops=_end == "timeout")(
        lambda do, end=_end: _matrix(do, end)
    )


@scenario("acks: before or after the run", alone=True)
def _(do: Driver) -> None:
    for name in ("gate", "gate_late"):
        do.send(name, f"acks-{name}", id=name)
        do.wait_noted(name, "begun")
    do.until("early is acknowledged", lambda: not do.unacknowledged("gate"))
    do.fact("early, while it runs", do.unacknowledged("gate"))
    do.fact("late, while it runs", do.unacknowledged("gate_late"))
    for name in ("gate", "gate_late"):
        do.open(f"acks-{name}")
    do.wait("gate", "gate_late")
    do.until("late is acknowledged", lambda: not do.unacknowledged("gate_late"))
    do.fact("late, afterwards", do.unacknowledged("gate_late"))


@scenario("dedup of redelivered tasks")
def _(do: Driver) -> None:
    do.send("once", 1, 2, id="a", queue="redelivery")
    raw = do.broker.lindex("redelivery", 0)
    again = json.loads(raw)
    again["headers"]["redelivered"] = True
    again["properties"]["delivery_info"]["redelivered"] = True
    again["properties"]["delivery_tag"] += "-again"
    do.control("add_consumer", queue="redelivery")
    do.wait("a")
    do.until("the first is acknowledged", lambda: not do.unacknowledged("a"))
    do.broker.lpush("redelivery", json.dumps(again))
    do.wait_noted("a", "task_received", 2)
    do.until("the second is acknowledged", lambda: not do.unacknowledged("a"))
    do.fact("runs", do.noted("a", "task_prerun"))
