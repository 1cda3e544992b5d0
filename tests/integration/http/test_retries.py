import asyncio
import email.utils
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from asyncworker.errors import HTTPConnectionLost, HTTPStatusError
from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer


def drop_first(exchange: Exchange) -> None:
    if exchange.number == 1:
        exchange.drop()
    else:
        exchange.send("done")


@pytest.mark.promise("http-repeats-what-is-safe")
async def test_a_dropped_connection_is_tried_again(server: HTTPServer, connect: Connect) -> None:
    server.on("/", drop_first)
    assert (await (await connect()).get("/")).json() == "done"
    assert len(server.seen) == 2


async def test_also_one_that_is_dropped_within_the_answer(server: HTTPServer, connect: Connect) -> None:
    def cut(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.begin(1000)
            exchange.write(b"half")
            exchange.drop()
        else:
            exchange.send("done")

    server.on("/", cut)
    assert (await (await connect()).get("/")).json() == "done"


@pytest.mark.promise("http-repeats-what-is-safe")
async def test_a_post_is_not_unless_it_may_arrive_twice(server: HTTPServer, connect: Connect) -> None:
    server.on("/", drop_first)
    client = await connect()
    with pytest.raises(HTTPConnectionLost, match="the connection ended before the answer did"):
        await client.post("/")
    assert len(server.seen) == 1
    server.seen.clear()
    assert (await client.post("/", json={"n": 1}, idempotent=True)).json() == "done"
    assert [each.body for each in server.seen] == [b'{"n":1}'] * 2


async def test_a_body_that_can_be_read_once_is_sent_once(server: HTTPServer, connect: Connect) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    server.on("/", drop_first)
    with pytest.raises(HTTPConnectionLost):
        await (await connect()).put("/", content=body(), headers={"Content-Length": "1"})
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.promise("http-repeats-what-is-safe")
async def test_what_may_be_otherwise_in_a_moment(server: HTTPServer, connect: Connect, status: int) -> None:
    server.on("/", lambda exchange: exchange.send("done", status if exchange.number < 3 else 200))
    assert (await (await connect()).get("/")).json() == "done"
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 501])
async def test_what_will_not(server: HTTPServer, connect: Connect, status: int) -> None:
    server.on("/", lambda exchange: exchange.send("no", status))
    with pytest.raises(HTTPStatusError):
        await (await connect()).get("/")
    assert len(server.seen) == 1


async def test_the_last_attempt_says_why(server: HTTPServer, connect: Connect) -> None:
    server.on("/", lambda exchange: exchange.send(f"try {exchange.number}", 503))
    with pytest.raises(HTTPStatusError, match='503 Service Unavailable: "try 3"'):
        await (await connect(attempts=3)).get("/")


async def test_retry_after_in_seconds_is_kept_to(server: HTTPServer, connect: Connect) -> None:
    at = []

    def busy(exchange: Exchange) -> None:
        at.append(time.monotonic())
        exchange.send("done", *([429] if exchange.number == 1 else []), Retry_After="1")

    server.on("/", busy)
    assert (await (await connect()).get("/")).json() == "done"
    assert at[1] - at[0] >= 1


async def test_retry_after_as_a_date_is_kept_to_by_the_servers_clock(server: HTTPServer, connect: Connect) -> None:
    """The server's clock is an hour slow; the wait is what it means all the same."""
    at = []

    def busy(exchange: Exchange) -> None:
        at.append(time.monotonic())
        if exchange.number == 2:
            return exchange.send("done")
        now = datetime.now(UTC) - timedelta(hours=1)
        date, until = (email.utils.format_datetime(each, usegmt=True) for each in (now, now + timedelta(seconds=1)))
        exchange.handler.date_time_string = lambda timestamp=None: date  # type: ignore[method-assign]
        return exchange.send("busy", 503, Retry_After=until)

    server.on("/", busy)
    assert (await (await connect()).get("/")).json() == "done"
    assert at[1] - at[0] >= 1


async def test_a_server_that_asks_for_too_long_is_not_asked_again(server: HTTPServer, connect: Connect) -> None:
    server.on("/", lambda exchange: exchange.send("busy", 503, Retry_After="3600"))
    with pytest.raises(HTTPStatusError) as caught:
        await (await connect()).get("/")
    assert caught.value.retry_after_s == 3600
    assert len(server.seen) == 1


async def test_a_429_holds_back_the_others_too(server: HTTPServer, connect: Connect) -> None:
    """Of a hundred that wait for their turn, none is sent into the server's pause."""
    told_at: list[float] = []
    early: list[float] = []

    def busy(exchange: Exchange) -> None:
        now = time.monotonic()
        if not told_at:
            told_at.append(now)
            return exchange.send("busy", 429, Retry_After="1")
        early.extend([now] if now < told_at[0] + 1 else [])
        return exchange.send("done")

    server.on("/", busy)
    client = await connect(per_host=1)
    await asyncio.gather(*(client.get("/") for _ in range(100)))
    assert early == []
    assert len(server.seen) == 101
