"""A list that comes in pages, as a source."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncworker.errors import HTTPPageError, HTTPStatusError
from asyncworker.http import Cursor, Links, Numbers
from tests.integration import http_tasks
from tests.integration.http.conftest import Connect
from tests.servers.http import Exchange, HTTPServer
from tests.servers.worker import Worker

GET_S = 120.0


def by_link(exchange: Exchange) -> None:
    page = int(exchange.query.get("page", "1"))
    link = {"Link": f'</orders?page={page + 1}&size=2>; rel="next", </orders>; rel="first"'} if page < 3 else {}
    exchange.send([10 * page, 10 * page + 1], **link)


def by_cursor(exchange: Exchange) -> None:
    page = int(exchange.query.get("after", "c1")[1:])
    exchange.send({"data": {"orders": [10 * page]}, "meta": {"next": f"c{page + 1}" if page < 3 else None}})


def by_url(exchange: Exchange) -> None:
    page = int(exchange.query.get("page", "1"))
    exchange.send({"results": [page], "next": f"{exchange.server.url}/orders?page={page + 1}" if page < 3 else None})


def by_number(exchange: Exchange) -> None:
    page = int(exchange.query["page"])
    exchange.send({"results": [page] if page <= 3 else []})


def by_offset(exchange: Exchange) -> None:
    exchange.send(list(range(100))[int(exchange.query["offset"]) :][:40])


NEXT = [
    '</orders?page={}>; rel="next"',
    "</orders?page={}>; rel=next",
    '</orders?page={}>;REL="Last Next"',
    '</orders;v=1?page={}&fields=a,b>; rel="next"',
    '</orders?page=1>; rel="first", </orders?page={}>; title="a, b; rel=last"; rel="next"; rel="prev"',
    '</orders?page=1>; rel="first"; title="\\"</x>; rel=next", </orders?page={}> ; rel = next',
]


@pytest.mark.parametrize("link", NEXT)
async def test_links_as_the_standard_allows_them(server: HTTPServer, connect: Connect, link: str) -> None:
    def answer(exchange: Exchange) -> None:
        page = int(exchange.query.get("page", "1"))
        exchange.send([page], **({"Link": link.format(page + 1)} if page < 3 else {"Link": '</orders>; rel="first"'}))

    for path in ("/orders", "/orders;v=1"):
        server.on(path, answer)
    client = await connect()
    assert [item async for item in client.items("/orders")] == [1, 2, 3]


async def test_a_page_that_begins_with_a_byte_order_mark(server: HTTPServer, connect: Connect) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin(6)
        exchange.write(b"\xef\xbb\xbf[1]")

    server.on("/orders", answer)
    client = await connect()
    assert [item async for item in client.items("/orders")] == [1]


@pytest.mark.parametrize(
    ("answer", "how", "items", "expected"),
    [
        (by_link, None, None, [10, 11, 20, 21, 30, 31]),
        (by_link, Links(), None, [10, 11, 20, 21, 30, 31]),
        (by_cursor, Cursor("meta.next", "after"), "data.orders", [10, 20, 30]),
        (by_url, Cursor("next"), "results", [1, 2, 3]),
        (by_number, Numbers(), "results", [1, 2, 3]),
        (by_offset, Numbers("offset", first=0, step=40), None, list(range(100))),
    ],
)
async def test_ways_in_which_lists_go_on(
    server: HTTPServer, connect: Connect, answer: Any, how: Any, items: str | None, expected: list[int]
) -> None:
    server.on("/orders", answer)
    client = await connect()
    found = [item async for item in client.items("/orders", pages=how, items=items, params={"state": "open"})]
    assert found == expected
    assert server.seen[0].query["state"] == "open"


async def test_a_page_is_asked_for_when_it_is_needed(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", by_link)
    pages = (await connect()).pages("/orders")
    page = await anext(pages)
    assert (page.number, page.items, len(server.seen)) == (1, [10, 11], 1)
    await pages.aclose()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ({"results": []}, {}, "page 1: it should be a list; name the field of it that is; it has 'results'"),
        ({"results": []}, {"items": "result"}, "page 1: no list in 'result'; it has 'results'"),
        ([1], {"pages": Numbers()}, "page 2 is an earlier one again: is 'page' the parameter?"),
        ({"r": [1], "next": "/orders"}, {"items": "r", "pages": Cursor("next")}, "page 1 says .* followed by itself"),
        ({"r": [1], "next": [1]}, {"items": "r", "pages": Cursor("next")}, r"page 1: 'next' is \[1\], not a cursor"),
        (
            {"r": [1], "next": "http://evil.example/"},
            {"items": "r", "pages": Cursor("next")},
            "page 1 leads to another server, http://evil.example/",
        ),
    ],
)
async def test_an_answer_that_is_no_page(
    server: HTTPServer, connect: Connect, content: Any, arguments: dict[str, Any], message: str
) -> None:
    server.on("/orders", lambda exchange: exchange.send(content))
    client = await connect()
    with pytest.raises(HTTPPageError, match=message):
        _ = [item async for item in client.items("/orders", **arguments)]


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000 + b"]" * 100_000, b"\xff[]", b""])
async def test_not_json(server: HTTPServer, connect: Connect, body: bytes) -> None:
    def html(exchange: Exchange) -> None:
        exchange.begin(len(body))
        exchange.write(body)

    server.on("/orders", html)
    with pytest.raises(HTTPPageError, match="page 1 is not JSON"):
        await anext((await connect()).items("/orders"))


async def test_a_page_that_is_refused_ends_the_list_with_its_error(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", lambda each: by_link(each) if each.number == 1 else each.send("no", 403))
    found = []
    with pytest.raises(HTTPStatusError, match="403"):
        async for item in (await connect()).items("/orders"):
            found.append(item)
    assert found == [10, 11]


def test_a_task_of_a_worker_is_a_source_over_pages(
    server: HTTPServer, worker: Callable[..., Worker], client: Any
) -> None:
    """The list is read, and each order fetched, by one client of the worker's process."""

    def order(exchange: Exchange) -> None:
        exchange.send({"number": int(exchange.query["number"])})

    server.on("/orders", by_link)
    server.on("/order", order)
    worker(http_tasks.__name__, "--without-mingle")
    fetch = client.tasks["http.order"].partial(url=server.url).options(results="inline")
    result = fetch.iterate(number=client.tasks["http.orders"].s(server.url)).delay()
    assert result.get(timeout=GET_S) == [10, 11, 20, 21, 30, 31]
    assert server.most_connections <= 3


def in_a_circle(exchange: Exchange) -> None:
    after = exchange.query.get("after", "a")
    exchange.send({"results": [after], "next": {"a": "b", "b": "c", "c": "b"}[after]})


def link_in_a_circle(exchange: Exchange) -> None:
    page = exchange.query.get("page", "1")
    exchange.send([page], Link=f'</orders?page={3 - int(page)}>; rel="next"')


def two_by_turns(exchange: Exchange) -> None:
    exchange.send([int(exchange.query["page"]) % 2])


@pytest.mark.parametrize(
    ("answer", "how", "items", "said"),
    [
        (in_a_circle, Cursor("next", "after"), "results", "page 3 leads back to page 2"),
        (link_in_a_circle, Links(), None, "page 2 leads back to page 1"),
        (two_by_turns, Numbers(), None, "page 3 is an earlier one again: is 'page' the parameter"),
    ],
)
@pytest.mark.promise("http-list-in-a-circle-ends")
async def test_a_list_that_goes_round_in_a_circle_is_refused(
    server: HTTPServer, connect: Connect, answer: Any, how: Any, items: str | None, said: str
) -> None:
    server.on("/orders", answer)
    client = await connect()
    with pytest.raises(HTTPPageError, match=said):
        async for _ in client.items("/orders", params={"page": "1"}, pages=how, items=items):
            assert len(server.seen) < 10


async def test_a_list_that_never_ends_is_refused(server: HTTPServer, connect: Connect) -> None:
    server.on("/orders", lambda exchange: exchange.send([len(server.seen)]))
    client = await connect()
    found = []
    with pytest.raises(HTTPPageError, match="the list goes on after page 7, the last that max_pages= allows"):
        async for item in client.items("/orders", pages=Numbers(), max_pages=7):
            found.append(item)
    assert found == [1, 2, 3, 4, 5, 6, 7]
