"""Standard input and output as streams of bytes: blocking calls on a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

__all__ = ["StandardOutput", "standard_input"]

T = TypeVar("T")

STDIN, STDOUT = 0, 1
_BLOCK_BYTES = 256 * 1024


class _Calls:
    """Blocking calls, one after the other. A daemon thread: one that is stuck in a read keeps no process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sftp-pipe", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((function, arguments, future))
        try:
            return await future
        except OSError as error:  # of the same kind, and says of what
            raise OSError(error.errno, error.strerror, self._name) from None

    def _run(self) -> None:
        while True:
            function, arguments, future = self._calls.get()
            try:
                result, error = function(*arguments), None
            except OSError as problem:
                result, error = None, problem
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


async def standard_input() -> AsyncGenerator[bytes, None]:
    """Give out standard input until its end.

    Raises:
        OSError: It cannot be read.
    """
    calls = _Calls("standard input")
    while block := await calls.call(os.read, STDIN, _BLOCK_BYTES):
        yield block


class StandardOutput:
    """Standard output for bytes of files. Nothing else may be written to it."""

    def __init__(self) -> None:
        self._calls = _Calls("standard output")

    async def write(self, block: bytes) -> None:
        """Write bytes, once the reader takes them.

        Raises:
            BrokenPipeError: Nobody reads any more.
            OSError: It cannot be written.
        """
        await self._calls.call(_write_all, block)


def _write_all(block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(STDOUT, view) :]
