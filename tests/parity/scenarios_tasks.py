"""Scenarios: what one task can be and do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.parity.app import app
from tests.parity.side import Driver, read_log, scenario


@scenario("success and failure")
def _(do: Driver) -> None:
    do.send("add", 1, 2, id="ok")
    do.send("fail", id="key")
    do.send("fail", "odd", id="odd")
    do.send("fail", "cause", id="cause")
    do.followed.append("arguments")
    app.send_task("parity.add", (1,), task_id=do.id("arguments"))
    do.send("add", "a", 1, id="type")
    do.send("unencodable", id="unencodable")
    do.wait("ok", "key", "odd", "cause", "arguments", "type", "unencodable")


@scenario("a body that raises SystemExit", alone=True)
def _(do: Driver) -> None:
    do.send("quits", id="a")
    do.until("", lambda: do.state("a") != "PENDING", 3, told=False)


@scenario("a task that the worker does not know")
def _(do: Driver) -> None:
    do.followed.append("a")
    app.send_task("parity.nobody", (1,), task_id=do.id("a"))
    do.wait("a")


RETRIES = ("countdown", "exc", "no exc", "args", "not thrown", "in handler")


@scenario("retry: countdown, exc, max_retries, args, throw")
def _(do: Driver) -> None:
    for how in RETRIES:
        do.send("retries", how, id=how.replace(" ", "-"))
    do.wait(*[how.replace(" ", "-") for how in RETRIES])
    do.until("the one not thrown ran again", lambda: do.noted("not-thrown", "try") == 2)


@scenario("retry with links and in a chain")
def _(do: Driver) -> None:
    do.send("retries", "countdown", id="a", link=do.sig("total", [1, 2], id="linked", immutable=True))
    (do.sig("retries", "countdown", id="b") | do.sig("request_of", "root_id", id="c", immutable=True)).apply_async()
    do.wait("a", "b", "c", "linked")


@scenario("autoretry: back-off, exceptions left out")
def _(do: Driver) -> None:
    do.send("backoff", 2, id="backoff")
    do.send("not_for_odd", 1, id="left-out")
    do.wait("backoff", "left-out")


@scenario("autoretry: jitter")
def _(do: Driver) -> None:
    do.send("jitter", 9, id="jitter")
    do.wait("jitter")


@scenario("Ignore")
def _(do: Driver) -> None:
    do.send("ignored", id="a", link=do.sig("add", 1, 1, id="linked", immutable=True))
    do.wait_noted("a", "task_postrun")
    do.fact("linked", do.state("linked"))


@scenario("Reject, with and without requeue")
def _(do: Driver) -> None:
    do.send("rejected", True, id="requeue")
    do.send("rejected", False, id="drop")
    do.wait("requeue")
    do.wait_noted("drop", "task_postrun")


@scenario("throws")
def _(do: Driver) -> None:
    do.send("throws", id="expected")
    do.send("throws", "odd", id="unexpected")
    do.wait("expected", "unexpected")


@scenario("ignore_result, store_errors_even_if_ignored")
def _(do: Driver) -> None:
    do.send("no_result", 1, 2, id="task")
    do.send("add", 1, 2, id="call", ignore_result=True)
    do.send("errors_only", id="error")
    do.wait("error")
    do.wait_noted("task", "task_postrun")
    do.wait_noted("call", "task_postrun")


@scenario("track_started")
def _(do: Driver) -> None:
    do.send("own_state", id="a")
    do.wait("a")


@scenario("the request, extended results")
def _(do: Driver) -> None:
    keys = (
        "args",
        "kwargs",
        "retries",
        "is_eager",
        "root_id",
        "parent_id",
        "group",
        "timelimit",
        "argsrepr",
        "headers",
    )
    more = ("called_directly", "correlation_id", "hostname", "origin", "ignore_result", "priority", "delivery_info")
    do.send("request_of", *keys, id="a", headers={"mine": "x"}, time_limit=60, soft_time_limit=50)
    do.send("request_of", *more[:3], "headers", id="b", priority=3)
    do.send("request_of", "mine", id="c", headers={"mine": "x"})
    do.wait("a", "b", "c")


@scenario("expires")
def _(do: Driver) -> None:
    do.send("add", 1, 1, id="late", expires=datetime.now(UTC) - timedelta(seconds=5))
    do.send("add", 1, 1, id="in-time", expires=600)
    do.wait("late", "in-time")


@scenario("eta and countdown")
def _(do: Driver) -> None:
    do.send("request_of", id="countdown", countdown=0.6)
    do.send("request_of", id="eta", eta=datetime.now(UTC) + timedelta(seconds=0.6))
    do.send("request_of", id="past", eta=datetime.now(UTC) - timedelta(hours=1))
    do.wait("countdown", "eta", "past")


@scenario("priorities")
def _(do: Driver) -> None:
    for number in range(8):
        do.send("add", number, 0, id=f"p{number}", queue="ranked", priority=9 - 3 * (number % 4))
    do.control("add_consumer", queue="ranked")
    do.wait(*[f"p{number}" for number in range(8)])
    received = [each["id"] for each in read_log() if each["what"] == "task_received"]
    do.fact("order", [each.partition("/")[2] for each in received if each.startswith("priorities/")])


@scenario("several queues and routes")
def _(do: Driver) -> None:
    do.send("routed", id="by-route")
    do.send("routed", id="by-call", queue="third")
    do.control("add_consumer", queue="third")
    do.wait("by-route", "by-call")


@scenario("rate_limit")
def _(do: Driver) -> None:
    for number in range(4):
        do.send("limited", number, 0, id=f"l{number}")
    do.wait(*[f"l{number}" for number in range(4)])


@scenario("soft and hard limits", stops=True)
def _(do: Driver) -> None:
    do.send("soft", True, id="caught")
    do.send("soft", False, id="uncaught")
    do.send("soft_and_hard", True, id="both")
    do.send("hard", id="hard")
    do.send("long", id="by-call", time_limit=1)
    do.send("soft", True, id="soft-by-call", soft_time_limit=1)
    do.wait("caught", "uncaught", "both", "hard", "by-call", "soft-by-call")


@scenario("a class with its own __call__")
def _(do: Driver) -> None:
    do.send("calling", 1, 2, id="ok")
    do.send("calling_fail", id="fails")
    do.wait("ok", "fails")


@scenario("a Request class")
def _(do: Driver) -> None:
    do.send("counted", 1, 2, id="ok")
    do.send("counted_fail", id="fails")
    do.send("counted_retries", "countdown", id="retries")
    do.wait("ok", "fails", "retries")


@scenario("a Request class: hard limit", stops=True)
def _(do: Driver) -> None:
    do.send("counted_hard", id="hard")
    do.wait("hard")


@scenario("shared_task")
def _(do: Driver) -> None:
    do.send("shared", 1, 2, id="a")
    do.wait("a")


@scenario("pydantic")
def _(do: Driver) -> None:
    do.send("pydantic", {"x": 1}, id="ok")
    do.send("pydantic", {"y": 1}, id="invalid")
    do.wait("ok", "invalid")
