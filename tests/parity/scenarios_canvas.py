"""Scenarios: chains, groups, chords, links, replacing, stamping."""

from __future__ import annotations

from typing import Any

from celery import chain, chord, group
from celery.canvas import StampingVisitor

from tests.parity.app import app
from tests.parity.side import Driver, scenario


@scenario("chain")
def _(do: Driver) -> None:
    chain(do.sig("add", 1, 2, id="a"), do.sig("add", 3, id="b"), do.sig("add", 4, id="c"), app=app).apply_async()
    do.wait("a", "b", "c")


@scenario("chain that fails")
def _(do: Driver) -> None:
    members = do.sig("add", 1, 2, id="a"), do.sig("fail", id="b", immutable=True), do.sig("add", 4, id="c")
    failing = chain(*members, app=app)
    failing.on_error(do.sig("on_error", id="handler"))
    failing.apply_async()
    do.wait("a", "b", "c")


@scenario("group")
def _(do: Driver) -> None:
    group([do.sig("add", n, n, id=f"m{n}") for n in range(4)], app=app).apply_async()
    do.wait(*[f"m{n}" for n in range(4)])


@scenario("group in a chain")
def _(do: Driver) -> None:
    members = group([do.sig("add", n, id=f"m{n}") for n in range(3)], app=app)
    chain(do.sig("add", 1, 1, id="first"), members, do.sig("total", id="last"), app=app).apply_async()
    do.wait("first", "last")


@scenario("chord")
def _(do: Driver) -> None:
    chord([do.sig("add", n, n, id=f"m{n}") for n in range(4)], do.sig("total", id="body"), app=app).apply_async()
    do.wait("body")


@scenario("chord with errors")
def _(do: Driver) -> None:
    body = do.sig("total", id="body")
    body.on_error(do.sig("on_error", id="handler"))
    chord([do.sig("add", 1, 1, id="good"), do.sig("fail", id="bad")], body, app=app).apply_async()
    do.wait("good", "bad", "body")


@scenario("chord whose body fails")
def _(do: Driver) -> None:
    body = do.sig("fail", id="body", immutable=True)
    chord([do.sig("add", 1, 1, id="m0"), do.sig("add", 1, 1, id="m1")], body, app=app).apply_async()
    do.wait("body")


@scenario("chord of chords")
def _(do: Driver) -> None:
    inner = [
        chord([do.sig("add", n, k, id=f"m{n}{k}") for k in range(2)], do.sig("total", id=f"inner{n}"), app=app)
        for n in range(2)
    ]
    chord(inner, do.sig("total", id="outer"), app=app).apply_async()
    do.wait("inner0", "inner1", "outer")


@scenario("chord grown by add_to_chord")
def _(do: Driver) -> None:
    do.followed.append("g-more")
    chord([do.sig("grows", 1, id="g"), do.sig("add", 1, 1, id="m")], do.sig("total", id="body"), app=app).apply_async()
    do.wait("body")


@scenario("link and link_error")
def _(do: Driver) -> None:
    do.send("add", 1, 2, id="a", link=[do.sig("add", 10, id="linked"), do.sig("add", 5, 5, id="si", immutable=True)])
    do.send("fail", id="f", link=do.sig("add", 1, id="never"), link_error=do.sig("on_error_old", id="old"))
    do.wait("linked", "si", "f", "old")
    do.fact("state of the link of a failed task", do.state("never"))


@scenario("errback with three arguments")
def _(do: Driver) -> None:
    do.send("fail", "odd", id="f", link_error=do.sig("on_error", id="handler"))
    do.wait("f")
    do.until("the errback ran", lambda: do.noted("f", "errback") + do.noted("handler", "errback") > 0, 5)


@scenario("errback that is bound")
def _(do: Driver) -> None:
    do.send("fail", "odd", id="f", link_error=do.sig("on_error_bound", id="handler"))
    do.wait("f")
    do.wait("handler")


@scenario("errback of a task past its hard limit", stops=True)
def _(do: Driver) -> None:
    do.send("hard", id="f", link_error=do.sig("on_error", id="handler"))
    do.wait("f")


@scenario("replace by one")
def _(do: Driver) -> None:
    do.send("replaced", "one", id="a", link=do.sig("add", 100, id="linked"))
    do.wait("a", "linked")


@scenario("replace by a chain")
def _(do: Driver) -> None:
    do.send("replaced", "chain", id="a")
    do.wait("a")


@scenario("replace by a group")
def _(do: Driver) -> None:
    do.send("replaced", "group", id="a")
    do.wait("a")


@scenario("replace in a chain and a chord")
def _(do: Driver) -> None:
    chain(do.sig("replaced", "one", id="a"), do.sig("add", 5, id="b"), app=app).apply_async()
    chord([do.sig("replaced", "chain", id="m"), do.sig("add", 1, 1, id="n")], do.sig("total", id="body"), app=app)()
    do.wait("a", "b", "body")


@scenario("children and trail")
def _(do: Driver) -> None:
    do.followed.extend(["a-child", "a-stranger"])
    do.send("sends", id="a")
    do.wait("a", "a-child", "a-stranger")


class Stamps(StampingVisitor):
    """Marks every task of a canvas."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"batch": "b-7", "stamped_headers": ["batch"]}


@scenario("stamping")
def _(do: Driver) -> None:
    canvas = chain(
        do.sig("request_of", "stamps", "stamped_headers", id="a", immutable=True),
        do.sig("request_of", "stamps", "stamped_headers", id="b", immutable=True),
        app=app,
    )
    canvas.stamp(visitor=Stamps())
    canvas.apply_async()
    do.wait("a", "b")
