"""A server that answers as the test says, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asyncworker import http
from asyncworker.http import HTTPClient
from tests.servers.http import HTTPServer, running_http_server

Connect = Callable[..., Awaitable[HTTPClient]]


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with running_http_server() as server:
        yield server


@pytest.fixture
async def connect(server: HTTPServer) -> AsyncIterator[Connect]:
    """Open clients for the server: ``await connect(per_host=5)``; they try again without a pause worth naming."""
    async with AsyncExitStack() as stack:

        async def connect(**options: Any) -> HTTPClient:
            client = await http.open_client(server.url, **{"backoff_s": 0.001, "timeout_s": 60.0, **options})
            return await stack.enter_async_context(client)

        yield connect
