"""A client's headers and log-in reach its own server, and no other, whatever leads there."""

from collections.abc import Iterator

import pytest

from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer, running_http_server

KEYS = {"X-Api-Key": "key", "X-Amz-Security-Token": "key"}
SECRETS = {**KEYS, "Cookie": "session=key"}


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    with running_http_server() as other:
        other.on("/there", lambda exchange: exchange.send("there"))
        yield other


def redirect(to: HTTPServer, path: str, status: int = 302) -> object:
    return lambda exchange: exchange.send(None, status, Location=to.url + path)


def secrets_of(exchange: Exchange) -> set[str]:
    return {name for name in ("Authorization", *SECRETS) if exchange.headers.get(name)}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("log_in", [{"token": "abc"}, {"auth": ("user", "password")}])
@pytest.mark.promise("http-secrets-stay-with-their-server")
async def test_a_redirect_to_another_server_takes_none_along(
    server: HTTPServer, other: HTTPServer, connect: Connect, log_in: dict[str, object], status: int
) -> None:
    server.on("/here", redirect(other, "/there", status))  # type: ignore[arg-type]
    client = await connect(headers={**SECRETS, "Accept": "application/json", "User-Agent": "shop"}, **log_in)
    assert (await client.get("/here")).json() == "there"
    assert secrets_of(server.seen[0]) == {"Authorization", *SECRETS}
    assert secrets_of(other.seen[0]) == set()
    assert other.seen[0].headers["Accept"] == "application/json"
    assert other.seen[0].headers["User-Agent"] == "shop"


@pytest.mark.promise("http-secrets-stay-with-their-server")
async def test_a_whole_url_of_another_server_gets_only_what_the_call_gives(
    server: HTTPServer, other: HTTPServer, connect: Connect
) -> None:
    client = await connect(headers=SECRETS, token="abc")
    await client.get(other.url + "/there")
    await client.get(other.url + "/there", headers={"Authorization": "Bearer theirs", "X-Trace": "1"})
    assert [secrets_of(each) for each in other.seen] == [set(), {"Authorization"}]
    assert other.seen[1].headers["Authorization"] == "Bearer theirs"
    assert other.seen[1].headers["X-Trace"] == "1"


async def test_what_a_call_gives_stays_with_the_server_that_it_calls(
    server: HTTPServer, other: HTTPServer, connect: Connect
) -> None:
    server.on("/here", redirect(other, "/there"))  # type: ignore[arg-type]
    client = await connect()
    async with client.stream("GET", "/here", headers={**SECRETS, "Authorization": "Bearer abc"}) as response:
        assert await response.aread() == b'"there"'
    assert secrets_of(server.seen[0]) == {"Authorization", *SECRETS}
    assert secrets_of(other.seen[0]) == set()


async def test_a_way_back_brings_none_either_and_the_own_server_gets_all(
    server: HTTPServer, other: HTTPServer, connect: Connect
) -> None:
    server.on("/here", redirect(server, "/inside"))  # type: ignore[arg-type]
    server.on("/inside", redirect(other, "/away"))  # type: ignore[arg-type]
    other.on("/away", redirect(server, "/home"))  # type: ignore[arg-type]
    server.on("/home", lambda exchange: exchange.send("home"))
    client = await connect(headers=SECRETS, token="abc")
    assert (await client.get("/here")).json() == "home"
    # A cookie that a caller sets is dropped by httpx at any redirect.
    assert [secrets_of(each) for each in server.seen[:2]] == [{"Authorization", *SECRETS}, {"Authorization", *KEYS}]
    assert secrets_of(other.seen[0]) == set()
