"""How much at once, and that nothing is left of what is cancelled."""

import asyncio
import random

import pytest

from asyncworker.errors import HTTPConnectError
from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer


def briefly(exchange: Exchange) -> None:
    exchange.server.go.wait(0.01)
    exchange.send("done")


@pytest.mark.promise("http-never-above-per-host")
async def test_never_more_at_once_to_a_host_than_said(server: HTTPServer, connect: Connect) -> None:
    server.on("/", briefly)
    client = await connect(per_host=5)
    answers = await asyncio.gather(*(client.get("/") for _ in range(100)))
    assert len(answers) == len(server.seen) == 100
    assert server.most_at_once == 5
    assert server.most_connections == 5


async def test_the_permit_is_held_until_a_streamed_answer_is_left(server: HTTPServer, connect: Connect) -> None:
    server.on("/", briefly)
    client = await connect(per_host=1)
    async with client.stream("GET", "/"):
        other = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0.05)
        assert not other.done()
    assert (await other).json() == "done"


async def test_cancelled_at_any_moment_it_leaves_no_connection_and_no_permit(
    server: HTTPServer, connect: Connect
) -> None:
    """A leaked permit would stop the last requests for ever, a leaked connection would be a fifth."""
    server.on("/", briefly)
    client = await connect(per_host=4, connections=4)
    chance = random.Random(17)
    for _ in range(15):
        requests = [asyncio.create_task(client.get("/")) for _ in range(12)]
        for request in requests:
            await asyncio.sleep(chance.uniform(0, 0.004))
            request.cancel()
        await asyncio.wait(requests)
    assert any(each.path == "/" for each in server.seen)
    await asyncio.gather(*(client.get("/") for _ in range(20)))
    while len(server.connections) > 4:  # those that were cut, until the server's threads have seen it
        await asyncio.sleep(0.01)


async def test_cancelled_while_it_waits_for_an_answer_it_closes_the_connection(
    server: HTTPServer, connect: Connect
) -> None:
    server.on("/never", Exchange.wait)
    client = await connect()
    request = asyncio.create_task(client.get("/never"))
    while not server.at_once:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    server.go.set()  # now the server finds out
    while server.connections:
        await asyncio.sleep(0.01)


async def test_no_connection_comes_free(server: HTTPServer, connect: Connect) -> None:
    """More permits than connections: the wait for one ends as an error."""

    def late(exchange: Exchange) -> None:
        exchange.wait()
        exchange.send("done")

    server.on("/late", late)
    client = await connect(per_host=2, connections=1, connect_timeout_s=1.0, attempts=1)
    first, second = (asyncio.create_task(client.get("/late")) for _ in range(2))
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    server.go.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each.exception()) for each in done] == [HTTPConnectError]
    assert len([each for each in outcomes if not isinstance(each, BaseException)]) == 1
