"""A TCP proxy on a thread, which can fall silent like a network that is parted, and cut connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator

__all__ = ["Proxy", "running_proxy"]


class Proxy:
    """Passes bytes between its port and a server's, as long as it is told to.

    Attributes:
        port: Where it listens.
        to_server: Bytes that it has passed on to the server.
        from_server: Bytes that it has passed back.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.to_server = self.from_server = 0
        self._tls = tls
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def partition(self) -> None:
        """Fall silent at once: no byte and no end of a connection passes, new connections get no answer."""

        async def close() -> None:
            self._open.clear()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    def heal(self) -> None:
        """Go on; what was held up is passed on, as TCP would send it again."""
        self._loop.call_soon_threadsafe(self._open.set)

    def forget(self) -> None:
        """Go on for new connections alone: those that are open stay so, and silent for ever, as behind a lost NAT."""

        async def renew() -> None:
            self._open.clear()
            self._open = asyncio.Event()
            self._open.set()

        asyncio.run_coroutine_threadsafe(renew(), self._loop).result(10)

    def cut(self) -> int:
        """Reset every connection; new ones are welcome. Returns how many there were."""

        async def cut() -> int:
            count = len(self._connections)
            self._abort_all()
            return count

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result(10)

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open go on."""

        async def close() -> None:
            self._server.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls), self._loop
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Cut every connection and end the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    # -- on its own loop -----------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers.add(writer)
        is_open = self._open
        try:
            await is_open.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(far_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, far_writer, is_open, there=True),
                    self._pass(far_reader, writer, is_open, there=False),
                )
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the server is down, or a side is gone: so is the other
        finally:
            self._writers.discard(writer)
            self._connections.discard(task)
            writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event, *, there: bool
    ) -> None:
        while data := await reader.read(65536):
            await is_open.wait()
            if there:
                self.to_server += len(data)
            else:
                self.from_server += len(data)
            writer.write(data)
            await writer.drain()
        await is_open.wait()
        raise ConnectionResetError  # ends the other direction as well

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        while self._connections:
            await asyncio.sleep(0.01)
        for _ in range(5):  # asyncio closes an aborted socket a turn later
            await asyncio.sleep(0)


@contextlib.contextmanager
def running_proxy(target_port: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy before a port of 127.0.0.1 until the block ends; with ``tls`` clients must speak that to it."""
    proxy = Proxy(target_port, tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
