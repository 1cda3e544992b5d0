"""HTTPClient: what a task calls. One client a service, shared by all tasks of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying

from asyncworker.errors import HTTPError, SettingsError
from asyncworker.http.connections import MAX_BYTES, too_large
from asyncworker.http.failures import failures_of, refusal, translated
from asyncworker.http.hosts import Hosts
from asyncworker.http.options import Options
from asyncworker.http.own_headers import called_with
from asyncworker.http.pages import MAX_PAGES, Links, Page, Paging, Trail, begin, follow
from asyncworker.http.retries import IDEMPOTENT, can_be_sent_again, retrying
from asyncworker.http.shown import shown
from asyncworker.redaction import redacted
from asyncworker.resources import lifetimes

__all__ = ["HTTPClient", "client", "open_client"]

_Opened = tuple[httpx.Response, AsyncExitStack, float]

_TOO_MANY_REQUESTS = 429


class HTTPClient:
    """One service, thousands of requests at once. Made by :func:`client` and :func:`open_client`.

    Used on one event loop; any number of tasks may call it at once, and every call may be cancelled at any time.

    A request that may arrive twice (by its method, or by ``idempotent=True``) is sent again when the connection breaks,
    when no answer comes in time, and on 429, 500, 502, 503 and 504; one that was never sent is, whatever its method. A
    body that can be read only once (a stream, files) is sent once. The server's ``Retry-After`` is kept to; a 429 that
    has one holds back all requests to that host.
    """

    def __init__(self, options: Options, httpx_client: httpx.AsyncClient) -> None:
        self.options = options
        self._client = httpx_client
        self._hosts = Hosts(options.per_host)

    def __repr__(self) -> str:
        return f"<HTTPClient {shown(httpx.URL(self.options.base_url))}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def get(self, url: str, **arguments: Any) -> httpx.Response:
        """Send a GET; see :meth:`request`."""
        return await self.request("GET", url, **arguments)

    async def post(self, url: str, **arguments: Any) -> httpx.Response:
        """Send a POST; see :meth:`request`."""
        return await self.request("POST", url, **arguments)

    async def put(self, url: str, **arguments: Any) -> httpx.Response:
        """Send a PUT; see :meth:`request`."""
        return await self.request("PUT", url, **arguments)

    async def delete(self, url: str, **arguments: Any) -> httpx.Response:
        """Send a DELETE; see :meth:`request`."""
        return await self.request("DELETE", url, **arguments)

    async def request(
        self,
        method: str,
        url: str,
        *,
        idempotent: bool | None = None,
        max_bytes: int | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """Send a request and read its answer to the end.

        Args:
            method: GET, POST, ...
            url: Relative to the base URL, or whole.
            idempotent: Whether it may arrive twice; ``None``: by its method.
            max_bytes: Bytes of the answer at most, decompressed; ``None``: as the client's.
            arguments: As for ``httpx.AsyncClient.build_request``: params, headers, json, content, data, files. Headers
                go to the server of that URL; where a redirect leads to another one, only harmless ones go along.

        Raises:
            HTTPStatusError: The answer is an error, 400 or above; of the last attempt.
            HTTPConnectError: There is no connection, and none can be made.
            HTTPCertificateError: The server's certificate is not one to trust.
            HTTPConnectionLost: The connection ended before the answer did.
            HTTPTimeout: No whole answer in time.
            HTTPTooLarge: The answer is larger than ``max_bytes``.
            HTTPError: Any other failure: a wrong URL, too many redirects.
        """

        most = self.options.max_bytes if max_bytes is None else max_bytes

        async def attempt() -> httpx.Response:
            response, opened, give_up_at = await self._open(method, url, arguments, most)
            async with opened:
                with translated(response.request, self.options.timeout_s):
                    async with asyncio.timeout_at(give_up_at):
                        await response.aread()
            return response

        return await self._retrying(method, idempotent, arguments)(attempt)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        idempotent: bool | None = None,
        max_bytes: int | None = None,
        **arguments: Any,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and give out its answer while it arrives: ``response.aiter_bytes()``, ``aiter_lines()``.

        What fails before the answer's head is there is tried again, what fails later is not. Takes and raises what
        :meth:`request` does; ``max_bytes=None`` sets no bound here. What the block itself raises comes out unchanged.
        """
        retry = self._retrying(method, idempotent, arguments)
        opening: _Opened = await retry(self._open, method, url, arguments, max_bytes)
        response, opened, _ = opening
        async with opened:
            with failures_of(response, self.options.timeout_s):
                yield response

    # -- lists ---------------------------------------------------------------------------------------------------------

    async def pages(
        self,
        url: str,
        *,
        pages: Paging | None = None,
        items: str | None = None,
        params: Mapping[str, Any] | None = None,
        max_pages: int = MAX_PAGES,
        **arguments: Any,
    ) -> AsyncGenerator[Page, None]:
        """Give out the pages of a list, one request each, sent when the page is asked for.

        Args:
            url: The first page.
            pages: How the list goes on: :class:`Links` (the default), :class:`Cursor`, :class:`Numbers`.
            items: Where in a page's JSON its items are, as ``data.orders``; ``None``: the page is a list of them.
            params: Added to the URL's query.
            max_pages: A list that goes on after so many is an error.
            arguments: As for :meth:`request`.

        Raises:
            HTTPPageError: An answer is not such a page, or leads nowhere, elsewhere, or back to an earlier page.
            HTTPError: A request failed.
        """
        how = pages or Links()
        next_url: httpx.URL | None = begin(how, url, params)
        trail = Trail(max_pages)
        while next_url is not None:
            response = await self.get(str(next_url), **arguments)
            page = Page.of(response, items, trail)
            yield page
            next_url = follow(how, page, trail)

    async def items(self, url: str, **arguments: Any) -> AsyncGenerator[Any, None]:
        """Give out the items of a list, page by page; memory holds one page. Takes and raises what `pages` does."""
        async with aclosing(self.pages(url, **arguments)) as pages:
            async for page in pages:
                for item in page.items:
                    yield item

    # -- inside --------------------------------------------------------------------------------------------------------

    def _retrying(self, method: str, idempotent: bool | None, arguments: dict[str, Any]) -> AsyncRetrying:
        may_repeat = method.upper() in IDEMPOTENT if idempotent is None else idempotent
        return retrying(self.options, idempotent=may_repeat, repeatable=can_be_sent_again(arguments))

    async def _open(self, method: str, url: str, arguments: dict[str, Any], max_bytes: int | None) -> _Opened:
        """Wait for the host's permit, send, and check the answer's head.

        Returns the answer, what gives back connection and permit, and when by the loop's clock its time is over.
        """
        try:
            request = self._client.build_request(method.upper(), url, **arguments)
            request.extensions.update(called_with(request.url, arguments.get("headers")), **{MAX_BYTES: max_bytes})
        except httpx.InvalidURL as exc:
            raise HTTPError(f"{method.upper()} {redacted(url)!r:.200}: {exc}", method=method.upper()) from None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._hosts.turn(request.url))
            give_up_at = asyncio.get_running_loop().time() + self.options.timeout_s
            with translated(request, self.options.timeout_s):
                async with asyncio.timeout_at(give_up_at):
                    response = await self._client.send(request, stream=True)
                    stack.push_async_callback(response.aclose)
                    if response.is_error:
                        error = await refusal(response)
                        if error.status == _TOO_MANY_REQUESTS and error.retry_after_s is not None:
                            self._hosts.close_for(request.url, min(error.retry_after_s, self.options.most_wait_s))
                        raise error
                    if max_bytes is not None and _announced_bytes(response) > max_bytes:
                        raise too_large(response, max_bytes)
            return response, stack.pop_all(), give_up_at
        raise AssertionError("not reached")


def _announced_bytes(response: httpx.Response) -> int:
    said = response.headers.get("Content-Length", "")
    return int(said) if said.isdecimal() and response.request.method != "HEAD" else 0


async def open_client(base_url: str, **options: Any) -> HTTPClient:
    """Open a client of one's own, to be closed by its owner: ``async with await http.open_client(...) as client``.

    Args:
        base_url: What relative URLs are added to.
        options: See :class:`~asyncworker.http.options.Options`.

    Raises:
        SettingsError: An option does not exist, or a value is not allowed.
    """
    return await _open(Options.of(base_url, **options))


async def client(base_url: str, **options: Any) -> HTTPClient:
    """Return this process's client for that service and those options, made once on the running loop.

    It is closed when the loop stops; a caller does not close it.

    Args:
        base_url: What relative URLs are added to.
        options: See :class:`~asyncworker.http.options.Options`. Other options mean another client.

    Raises:
        SettingsError: An option does not exist, or a value is not allowed.
    """
    wanted = Options.of(base_url, **options)
    return await lifetimes().use((HTTPClient, wanted), lambda: _open(wanted))


async def _open(options: Options) -> HTTPClient:
    try:
        return HTTPClient(options, await asyncio.to_thread(options.make))
    except OSError as exc:
        raise SettingsError(f"HTTP verify is {options.verify!r}: {exc}") from exc
