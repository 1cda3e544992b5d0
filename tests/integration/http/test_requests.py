import asyncio
import pickle
from pathlib import Path

import pytest

from asyncworker import http
from asyncworker.errors import (
    HTTPCertificateError,
    HTTPConnectError,
    HTTPError,
    HTTPStatusError,
    HTTPTimeout,
    SettingsError,
)
from asyncworker.resources import lifetimes
from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer, running_http_server, self_signed
from tests.servers.ports import free_port


def echo(exchange: Exchange) -> None:
    exchange.send({"method": exchange.method, "query": exchange.query, "body": exchange.body.decode()})


async def test_methods_arguments_and_headers(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", echo)
    client = await connect(token="abc", headers={"X-Shop": "Oslo"})
    assert (await client.get("/orders", params={"page": 2})).json() == {
        "method": "GET",
        "query": {"page": "2"},
        "body": "",
    }
    assert (await client.post("/orders", json={"a": 1})).json()["body"] == '{"a":1}'
    assert (await client.put("/orders", content=b"x")).json()["method"] == "PUT"
    assert (await client.delete("/orders")).json()["method"] == "DELETE"
    assert {each.headers["Authorization"] for each in server.seen} == {"Bearer abc"}
    assert {each.headers["X-Shop"] for each in server.seen} == {"Oslo"}
    assert server.connected == 1


async def test_an_answer_that_is_an_error_says_what_the_server_says(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders/17", lambda exchange: exchange.send({"reason": "no such order"}, 404))
    client = await connect()
    with pytest.raises(HTTPStatusError, match=r'GET http://.*/orders/17\?\.\.\.: 404 Not Found: .*"no such') as caught:
        await client.get("/orders/17", params={"key": "secret"})
    assert "secret" not in str(caught.value)
    assert (caught.value.status, caught.value.method) == (404, "GET")
    assert pickle.loads(pickle.dumps(caught.value)).status == 404
    assert len(server.seen) == 1


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with await http.open_client(url, attempts=2, backoff_s=0.001) as client:
        with pytest.raises(HTTPConnectError, match=f"POST {url}/orders: no connection"):
            await client.post("/orders")


async def test_a_slow_server_is_given_up(server: HTTPServer, connect: Connect) -> None:
    server.on("/slow", Exchange.wait)
    client = await connect(timeout_s=0.1, attempts=2)
    with pytest.raises(HTTPTimeout, match=r"no whole answer within 0\.1 s") as caught:
        await client.get("/slow")
    assert isinstance(caught.value, TimeoutError)


async def test_or_asked_again(server: HTTPServer, connect: Connect) -> None:
    server.on("/slow", lambda exchange: exchange.wait() if exchange.number == 1 else exchange.send("done"))
    client = await connect(timeout_s=0.5, attempts=20)
    assert (await client.get("/slow")).json() == "done"


async def test_so_is_one_that_sends_a_byte_now_and_then(server: HTTPServer, connect: Connect) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.begin(100_000)
        for _ in range(100_000):
            exchange.write(b"x")
            if exchange.server.go.wait(0.05):
                return

    server.on("/drip", drip)
    client = await connect(timeout_s=0.5, attempts=1)
    with pytest.raises(HTTPTimeout):
        await client.get("/drip")


async def test_a_large_answer_is_streamed(server: HTTPServer, connect: Connect) -> None:
    def large(exchange: Exchange) -> None:
        exchange.begin(5_000_000)
        for _ in range(50):
            exchange.write(b"x" * 100_000)

    server.on("/large", large)
    client = await connect(per_host=1, connections=1)
    for _ in range(3):
        async with client.stream("GET", "/large") as response:
            assert sum([len(piece) async for piece in response.aiter_bytes()]) == 5_000_000
    async with client.stream("GET", "/large"):  # left early
        pass
    server.on("/orders", echo)
    assert (await client.get("/orders")).status_code == 200


async def test_a_redirect_is_followed(server: HTTPServer, connect: Connect) -> None:
    server.on("/old", lambda exchange: exchange.send(None, 307, Location="/orders"))
    server.on("/orders", echo)
    assert (await (await connect()).get("/old")).json()["method"] == "GET"


async def test_a_url_that_is_none(connect: Connect) -> None:
    client = await connect()
    with pytest.raises(HTTPError, match="UnsupportedProtocol"):
        await client.get("gopher://example.com/")
    with pytest.raises(HTTPError, match=r"GET 'http://h:port/': Invalid port"):
        await client.get("http://h:port/")


async def test_one_client_a_service_and_options(server: HTTPServer) -> None:
    server.on("/orders", echo)
    clients = await asyncio.gather(*(http.client(server.url, per_host=5) for _ in range(10)))
    assert len(set(map(id, clients))) == 1
    assert await http.client(server.url, per_host=6) is not clients[0]
    await clients[0].get("/orders")
    assert len(server.connections) == 1
    await lifetimes().close()
    while server.connections:  # seen by the server's thread a moment later
        await asyncio.sleep(0.01)


async def test_certificates_are_checked(tmp_path: Path) -> None:
    tls, trusted = self_signed(tmp_path)
    with running_http_server(tls) as server:
        server.on("/orders", echo)
        async with await http.open_client(server.url, verify=trusted) as client:
            assert (await client.get("/orders")).json()["method"] == "GET"
        connected = server.connected
        async with await http.open_client(server.url) as client:
            with pytest.raises(HTTPCertificateError, match="self-signed certificate"):
                await client.get("/orders")
        async with await http.open_client(server.url, verify=False) as client:
            assert (await client.get("/orders")).json()["method"] == "GET"
        assert server.connected == connected + 1
        assert len(server.seen) == 2


async def test_by_a_proxy(server: HTTPServer) -> None:
    server.on("/orders", echo)
    async with await http.open_client("http://shop.invalid", proxy=server.url) as client:
        assert (await client.get("/orders")).json()["method"] == "GET"
    assert server.seen[0].headers["Host"] == "shop.invalid"


async def test_a_certificate_file_that_is_missing_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="verify is '/no/such/file'"):
        await http.open_client("https://example.com", verify="/no/such/file")
