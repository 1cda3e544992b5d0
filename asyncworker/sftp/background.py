"""Writes the blocks of one large file on a thread, so that a slow disk holds up that file and not the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from asyncworker.sftp.localfile import LocalFile

__all__ = ["BackgroundWriter"]


class BackgroundWriter:
    """One batch at a time: what arrives while it is written is the next batch. Used on one loop.

    Args:
        file: Closed by this writer once it is discarded and no thread uses it.
        executor: Where it writes.
        on_written: Called on the loop after each batch, with its size.
        on_failed: Called on the loop if a batch fails; nothing is written after that.
    """

    __slots__ = ("_blocks", "_busy", "_discarded", "_executor", "_file", "_loop", "_on_failed", "_on_written", "queued")

    def __init__(
        self,
        file: LocalFile,
        executor: Executor,
        on_written: Callable[[], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._file = file
        self._executor = executor
        self._on_written = on_written
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._blocks: list[tuple[int, bytes]] = []
        self._busy = False
        self._discarded = False
        self.queued = 0
        """Bytes that are not on their way to the disk yet, or not there yet."""

    def add(self, offset: int, data: bytes) -> None:
        """Take a block."""
        if self._discarded:
            return
        self._blocks.append((offset, data))
        self.queued += len(data)
        if not self._busy:
            self._start()

    def discard(self) -> None:
        """Drop what waits and remove the file at once; it is closed when the thread is through with it."""
        self._discarded = True
        self._blocks.clear()
        self._file.remove()
        if not self._busy:
            self._file.discard()

    def _start(self) -> None:
        blocks, self._blocks = self._blocks, []
        size = sum(len(data) for _, data in blocks)
        self._busy = True
        writing = self._executor.submit(self._file.write, blocks)
        writing.add_done_callback(lambda done: self._from_thread(size, done.exception()))

    def _from_thread(self, size: int, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._written, size, error)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._file.discard()

    def _written(self, size: int, error: BaseException | None) -> None:
        self._busy = False
        self.queued -= size
        if self._discarded:
            self._file.discard()
        elif error is not None:
            self._blocks.clear()
            self._on_failed(error if isinstance(error, Exception) else RuntimeError(f"writing ended by {error!r}"))
        else:
            if self._blocks:
                self._start()
            self._on_written()
