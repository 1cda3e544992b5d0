"""Connections, one request at a time on each: a pool below httpx that loses none to a cancelled request.

httpcore's own pool keeps a connection for ever whose request is cancelled while it is being assigned or made (fifteen
rounds of cancelled requests fill a pool of four). So each connection has a pool of its own, of one; a request that does
not end well takes its pool with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

import httpx

from asyncworker.errors import HTTPTooLarge
from asyncworker.http.shown import shown

__all__ = ["MAX_BYTES", "Answer", "Connections", "too_large"]

#: The extension of a request that says how many bytes of its answer are read.
MAX_BYTES = "asyncworker.max_bytes"

#: What is decompressed at once: deflate makes a thousand bytes of one at most, others millions.
_PIECE_BYTES = 4096
_DENSE_PIECE_BYTES = 16
_DEFLATE = frozenset({"gzip", "x-gzip", "deflate", "identity"})


class Connections(httpx.AsyncBaseTransport):
    """httpx transport over our connections. Used on one loop.

    Args:
        most: Connections at most, those that are idle included.
        verify: How certificates are checked.
        proxy: The URL of a proxy; ``None``: none.
    """

    def __init__(self, most: int, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        self._most = most
        self._verify = verify
        self._proxy = proxy
        self._free = asyncio.Semaphore(most)
        self._busy = 0
        self._idle: OrderedDict[httpx.AsyncHTTPTransport, str] = OrderedDict()  # to which host; the newest last
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on an idle connection, the one last used, or on a new one."""
        host = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
        await self._wait(request)
        try:
            connection = self._take(host)
            self._busy += 1
        except BaseException:
            self._free.release()
            raise
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            self._give_back(connection, host, well=False)
            raise
        body = response.stream
        assert isinstance(body, httpx.AsyncByteStream)
        ended = _Body(body, lambda well: self._give_back(connection, host, well=well), _piece_bytes(response.headers))
        return Answer(response.status_code, headers=response.headers, stream=ended, extensions=response.extensions)

    async def aclose(self) -> None:
        """Close every connection."""
        while self._idle:
            connection, _ = self._idle.popitem()
            self._close(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _wait(self, request: httpx.Request) -> None:
        timeout_s = request.extensions.get("timeout", {}).get("pool")
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout(f"none of {self._most} connections came free in {timeout_s:g} s") from None

    def _take(self, host: str) -> httpx.AsyncHTTPTransport:
        found = next((each for each, its in reversed(self._idle.items()) if its == host), None)
        if found is not None:
            del self._idle[found]
            return found
        if self._busy + len(self._idle) >= self._most:
            oldest, _ = self._idle.popitem(last=False)
            self._close(oldest)
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncHTTPTransport(verify=self._verify, limits=one, proxy=self._proxy, trust_env=False)

    def _give_back(self, connection: httpx.AsyncHTTPTransport, host: str, *, well: bool) -> None:
        self._busy -= 1
        self._free.release()
        if well:
            self._idle[connection] = host
        else:
            self._close(connection)

    def _close(self, connection: httpx.AsyncHTTPTransport) -> None:
        # Beside whoever was cancelled, who may be cancelled again.
        task = asyncio.ensure_future(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Answer(httpx.Response):
    """An answer, of which no more is read than its request allows."""

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Give out the body, decompressed.

        Raises:
            HTTPTooLarge: It is larger than the request allows.
        """
        max_bytes, received = self.request.extensions.get(MAX_BYTES), 0
        async for piece in super().aiter_bytes(chunk_size):
            received += len(piece)
            if max_bytes is not None and received > max_bytes:
                raise too_large(self, max_bytes)
            yield piece


def too_large(answer: httpx.Response, max_bytes: int) -> HTTPTooLarge:
    """Make the error of an answer that is larger than that."""
    request = answer.request
    url = shown(request.url)
    return HTTPTooLarge(
        f"{request.method} {url}: the answer has more than max_bytes={max_bytes:,}", method=request.method, url=url
    )


def _piece_bytes(headers: httpx.Headers) -> int | None:
    encodings = [each.strip().lower() for each in headers.get("Content-Encoding", "identity").split(",")]
    if encodings == ["identity"]:
        return None
    # Two of them multiply.
    return _PIECE_BYTES if len(encodings) == 1 and encodings[0] in _DEFLATE else _DENSE_PIECE_BYTES


class _Body(httpx.AsyncByteStream):
    """An answer's body; tells once whether it was read to its end.

    Args:
        body: What is read.
        ended: Is told.
        piece_bytes: Give it out in pieces of that size, since they grow when they are decompressed; ``None``: as it
            comes.
    """

    def __init__(self, body: httpx.AsyncByteStream, ended: Callable[[bool], None], piece_bytes: int | None) -> None:
        self._body = body
        self._piece_bytes = piece_bytes
        self._ended: Callable[[bool], None] | None = ended
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            if self._piece_bytes is None:
                yield piece
                continue
            for start in range(0, len(piece), self._piece_bytes):
                yield piece[start : start + self._piece_bytes]
        self._whole = True

    async def aclose(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        well = False
        try:
            if self._whole:
                await self._body.aclose()
                well = True
        finally:
            ended(well)
