"""Scenarios: revoking, before and while a task runs, with the pool full."""

from __future__ import annotations

import time

from tests.parity.app import app
from tests.parity.side import Driver, scenario

SLOTS = 4


@scenario("revoke: reserved", alone=True)
def _(do: Driver) -> None:
    for number in range(SLOTS):
        do.send("gate", "full", id=f"blocker{number}")
    for number in range(SLOTS):
        do.wait_noted(f"blocker{number}", "begun")
    do.send("add", 1, 1, id="reserved", link=do.sig("add", 1, id="never"))
    do.wait_noted("reserved", "task_received")
    do.fact("answer", do.control("revoke", task_id=do.id("reserved")))
    do.open("full")
    do.wait(*[f"blocker{number}" for number in range(SLOTS)], "reserved")
    do.wait_noted("reserved", "task_revoked")
    do.fact("its link", do.state("never"))


@scenario("expires while it waits for a slot", alone=True)
def _(do: Driver) -> None:
    for number in range(SLOTS):
        do.send("gate", "crowded", id=f"blocker{number}")
    for number in range(SLOTS):
        do.wait_noted(f"blocker{number}", "begun")
    do.send("add", 1, 1, id="a", expires=4)
    do.wait_noted("a", "task_received")
    time.sleep(4.2)
    do.open("crowded")
    do.wait(*[f"blocker{number}" for number in range(SLOTS)], "a")


@scenario("revoke: waiting for its eta")
def _(do: Driver) -> None:
    do.send("add", 1, 1, id="a", countdown=5)
    do.wait_noted("a", "task_received")
    do.control("revoke", task_id=do.id("a"))
    do.wait_noted("a", "task_revoked")


@scenario("revoke: running, without terminate", alone=True)
def _(do: Driver) -> None:
    do.send("gate", "unhurt", id="a")
    do.wait_noted("a", "begun")
    do.control("revoke", task_id=do.id("a"))
    do.open("unhurt")
    do.wait_noted("a", "task_postrun")


@scenario("revoke: running, terminate", stops=True)
def _(do: Driver) -> None:
    do.send("long", id="a", link=do.sig("add", 1, 1, id="never", immutable=True))
    do.send("counted_gate", "doomed", id="late")
    do.send("gate", "spared", id="spared")
    for name in ("a", "late", "spared"):
        do.wait_noted(name, "begun")
    do.fact("answer", do.control("revoke", task_id=do.id("a"), terminate=True))
    do.fact("answer, late", do.control("revoke", task_id=do.id("late"), terminate=True))
    do.wait("a", "late")
    do.open("spared")
    do.wait("spared")
    do.fact("its link", do.state("never"))
    do.wait_noted("late", "on_failure")
    do.until("late is acknowledged", lambda: not do.unacknowledged("late"))


@scenario("revoke: by stamp")
def _(do: Driver) -> None:
    do.control("revoke_by_stamped_headers", headers={"batch": ["b-revoked"]})
    stamped = do.sig("add", 1, 1, id="a")
    stamped.stamp(batch="b-revoked")
    stamped.apply_async()
    do.wait("a")


@scenario("inspect")
def _(do: Driver) -> None:
    inspect = app.control.inspect(timeout=15, limit=1)
    registered = next(iter((inspect.registered() or {}).values()), [])
    do.fact("registered", sorted(name for name in registered if name.startswith("parity.")))
    do.fact("ping", list((app.control.inspect(timeout=15, limit=1).ping() or {}).values()))
