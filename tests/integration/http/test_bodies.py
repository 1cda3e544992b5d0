"""Answers that are larger than they should be, and errors that are the caller's own."""

import asyncio
import gzip
import tracemalloc

import httpx
import pytest

from asyncworker.errors import HTTPConnectionLost, HTTPStatusError, HTTPTooLarge, SettingsError
from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer

MEGABYTE = 1_000_000


def plain(exchange: Exchange) -> None:
    exchange.begin(2 * MEGABYTE)
    exchange.write(b"x" * (2 * MEGABYTE))


PACKED = gzip.compress(b"x" * 100 * MEGABYTE)


def packed(exchange: Exchange) -> None:
    exchange.begin(len(PACKED), Content_Encoding="gzip")
    exchange.write(PACKED)


def without_a_size(exchange: Exchange) -> None:
    exchange.handler.send_response(200)
    exchange.handler.send_header("Connection", "close")
    exchange.handler.end_headers()
    exchange.handler.close_connection = True
    for _ in range(20):
        exchange.write(b"x" * (MEGABYTE // 10))


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_no_more_is_read_of_what_is_packed_denser_than_gzip(
    server: HTTPServer, connect: Connect, encoding: str
) -> None:
    """A few bytes of it become many megabytes."""
    content = b"x" * 400 * MEGABYTE
    if encoding == "br":
        packed = pytest.importorskip("brotli").compress(content, quality=5, lgwin=24)
    elif encoding == "zstd":
        packed = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    else:
        packed = gzip.compress(gzip.compress(content))
    del content

    def answer(exchange: Exchange) -> None:
        exchange.begin(len(packed), Content_Encoding=encoding)
        exchange.write(packed)

    server.on("/orders", answer)
    client = await connect(max_bytes=MEGABYTE)
    tracemalloc.start()
    try:
        with pytest.raises(HTTPTooLarge):
            await client.get("/orders")
        assert tracemalloc.get_traced_memory()[1] < 100 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [404, 503])
@pytest.mark.parametrize("answer", [b"this is not gzip", PACKED], ids=["broken", "too-large"])
async def test_the_status_of_an_error_counts_whatever_its_body_is(
    server: HTTPServer, connect: Connect, status: int, answer: bytes
) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.begin(len(answer), status, Content_Encoding="gzip")
        exchange.write(answer)

    server.on("/orders", refuse)
    client = await connect(max_bytes=1000, attempts=3)
    with pytest.raises(HTTPStatusError, match=str(status)) as caught:
        await client.get("/orders")
    assert caught.value.status == status
    assert len(server.requests("/orders")) == (1 if status == 404 else 3)


@pytest.mark.parametrize("answer", [plain, packed, without_a_size])
@pytest.mark.promise("http-answers-are-bounded")
async def test_no_more_is_read_than_max_bytes(server: HTTPServer, connect: Connect, answer: object) -> None:
    server.on("/orders", answer)  # type: ignore[arg-type]
    client = await connect(max_bytes=MEGABYTE)
    tracemalloc.start()
    try:
        with pytest.raises(HTTPTooLarge, match=r"GET http://.*/orders: the answer has more than max_bytes=1,000,000"):
            await client.get("/orders")
        assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert len(server.seen) == 1
    server.on("/small", lambda exchange: exchange.send("small"))
    assert (await client.get("/small")).json() == "small"


async def test_a_call_sets_its_own_bound_and_a_stream_has_none_of_itself(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", plain)
    client = await connect(max_bytes=MEGABYTE)
    assert len((await client.get("/orders", max_bytes=2 * MEGABYTE)).content) == 2 * MEGABYTE
    async with client.stream("GET", "/orders") as response:
        assert sum([len(piece) async for piece in response.aiter_bytes()]) == 2 * MEGABYTE
    with pytest.raises(HTTPTooLarge):
        async with client.stream("GET", "/orders", max_bytes=MEGABYTE) as response:
            await response.aread()
    with pytest.raises(SettingsError, match="max_bytes"):
        await connect(max_bytes=0)


@pytest.mark.parametrize(
    "error",
    [TimeoutError("mine"), httpx.ReadError("mine"), httpx.StreamClosed(), httpx.InvalidURL("mine"), OSError("mine")],
)
async def test_what_the_block_of_a_stream_raises_comes_out_unchanged(
    server: HTTPServer, connect: Connect, error: Exception
) -> None:
    server.on("/orders", lambda exchange: exchange.send([1, 2]))
    client = await connect()
    with pytest.raises(type(error)) as caught:
        async with client.stream("GET", "/orders"):
            raise error
    assert caught.value is error


async def test_a_callers_time_limit_is_the_callers(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", Exchange.wait)
    client = await connect()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05), client.stream("GET", "/orders"):
            pass
    assert type(caught.value) is TimeoutError


async def test_another_clients_failure_inside_a_stream_is_not_this_ones(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", lambda exchange: exchange.send([1, 2]))
    server.on("/cut", Exchange.drop)
    client = await connect()
    with pytest.raises(httpx.RemoteProtocolError):
        async with client.stream("GET", "/orders"), httpx.AsyncClient(trust_env=False) as stranger:
            await stranger.get(server.url + "/cut")


def cut_off(exchange: Exchange) -> None:
    exchange.begin(100)
    exchange.write(b"x" * 10)
    exchange.drop()


async def test_an_answer_that_breaks_off_while_it_is_read_is_still_ours(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", cut_off)
    client = await connect()
    with pytest.raises(HTTPConnectionLost, match=r"GET http://.*/orders: the connection ended"):
        async with client.stream("GET", "/orders") as response:
            await response.aread()
