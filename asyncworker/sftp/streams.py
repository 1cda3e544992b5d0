"""A remote file as a stream: read in blocks that are asked for ahead, or written in blocks that are answered later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Generic, Self, TypeVar

from asyncworker.sftp import packets
from asyncworker.sftp.packets import Attributes, OpenFlag, Status
from asyncworker.sftp.session import Released, Session, refusal

__all__ = ["RangeStream", "ReadStream", "WriteStream"]

T = TypeVar("T")

_FLAGS = {
    "r": OpenFlag.READ,
    "w": OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.TRUNCATE,
    "x": OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE,
}


class _Stream:
    """An open handle that keeps its place on a session until it is closed."""

    def __init__(self, path: str, raw: bytes, mode: str, on_released: Released) -> None:
        self.path = path
        self.future: asyncio.Future[Self] = asyncio.get_running_loop().create_future()
        self._raw = raw
        self._flags = _FLAGS[mode]
        self._on_released = on_released
        self._session: Session | None = None
        self._handle: bytes | None = None
        self._error: Exception | None = None
        self._closing: asyncio.Future[None] | None = None
        self._news = asyncio.Event()

    @property
    def read_bytes(self) -> int:
        """How much one READ brings at most."""
        return self._live()[0].protocol.read_bytes

    # -- a job of the pool ---------------------------------------------------------------------------------------------

    def start(self, session: Session) -> None:
        """Take a place on that session and open the file."""
        self._session = session
        session.protocol.open(self._raw, self._opened, self, packets.open_tail(self._flags))

    def abandon(self) -> None:
        """Nobody waits for it to be open any more."""
        self.future.cancel()
        self.begin_to_close()

    def fail(self, error: Exception) -> None:
        """Take that the file cannot be used any more."""
        if self._error is None:
            self._error = error
        if not self.future.done():
            self.future.set_exception(error)
        self._news.set()
        if self._session is not None and not self._session.alive:
            self._release()

    def _opened(self, answer: bytes | Status) -> None:
        if isinstance(answer, Status):
            assert self._session is not None
            creates = bool(self._flags & OpenFlag.CREATE)
            self.fail(refusal(answer, "open", self._session.address, self.path, creates=creates))
            self._release()
            return
        self._handle = answer
        if self.future.done():
            self.begin_to_close()
        else:
            self.future.set_result(self)  # type: ignore[arg-type]

    async def stat(self) -> Attributes:
        """Return what the server says of the open file.

        Raises:
            SFTPError: It refuses, or the connection is lost.
        """
        session, handle = self._live()
        answered: asyncio.Future[Attributes | Status] = asyncio.get_running_loop().create_future()
        session.protocol.fstat(handle, _Settles(answered).take, _Settles(answered))
        answer = await answered
        if isinstance(answer, Status):
            raise refusal(answer, "stat", session.address, self.path)
        return answer

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close it. A second call does nothing.

        Raises:
            SFTPError: What was written is not safe with the server.
        """
        closing = self.begin_to_close()
        if closing is not None:
            await asyncio.shield(closing)

    def begin_to_close(self) -> asyncio.Future[None] | None:
        """Close it as soon as it can be, without waiting; returns what can be waited for."""
        session, handle = self._session, self._handle
        if self._closing is not None or session is None or handle is None:
            return self._closing
        if not session.alive:
            self._release()
            return None
        self._closing = asyncio.get_running_loop().create_future()
        session.protocol.close(handle, self._closed, _Closer(self))
        return self._closing

    def _closed(self, answer: Status) -> None:
        assert self._session is not None and self._closing is not None
        if answer.code != packets.OK:
            self._error = self._error or refusal(answer, "close", self._session.address, self.path)
        self._end_closing()

    def _end_closing(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self._release()

    def _release(self) -> None:
        session, self._session = self._session, None
        self._handle = None
        if session is not None:
            self._on_released(session, self)

    def _live(self) -> tuple[Session, bytes]:
        if self._error is not None:
            raise self._error
        if self._session is None or self._handle is None or self._closing is not None:
            raise ValueError(f"{self.path}: the file is closed")
        return self._session, self._handle


class _Closer:
    """Owner of the CLOSE: a session that is lost then ends the closing too."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def fail(self, error: Exception) -> None:
        """Take that there will be no answer."""
        self._stream.fail(error)
        self._stream._end_closing()


class ReadStream(_Stream):
    """A remote file that is read from its beginning to its end, by one task at a time.

    ::

        async with pool.open("/in/large.csv") as file:
            async for block in file: ...

    Args:
        path: Its path.
        raw: The same as bytes.
        window_bytes: Asked for and not taken yet, at most.
        on_released: Called once, when the place on the session is free again.
    """

    def __init__(self, path: str, raw: bytes, window_bytes: int, on_released: Released) -> None:
        super().__init__(path, raw, "r", on_released)
        self._window = window_bytes
        self._blocks: deque[_Block] = deque()  # in the file's order
        self._next = 0  # where the next READ begins
        self._kept = 0  # bytes in or asked for by _blocks
        self._rest = b""  # of a block of which a part was taken
        self._size: int | None = None  # once its end was met

    async def read(self, size: int = -1) -> bytes:
        """Return the next bytes: exactly ``size`` unless the file ends before, or all that follow.

        Raises:
            SFTPError: The server refuses.
            SFTPConnectionLost: The connection is lost; what was read before stays good.
        """
        parts = []
        missing = size
        while size < 0 or missing > 0:
            block = self._rest or await self._block()
            self._rest = b""
            if not block:
                break
            if 0 <= missing < len(block):
                block, self._rest = block[:missing], block[missing:]
            parts.append(block)
            missing -= len(block) if size >= 0 else 0
        return b"".join(parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        rest, self._rest = self._rest, b""
        block = rest or await self._block()
        if not block:
            raise StopAsyncIteration
        return block

    async def _block(self) -> bytes:
        """The next block as it came, or nothing at the end."""
        while True:
            session, handle = self._live()
            while self._size is None and self._kept < self._window:
                self._blocks.append(self._ask(session, handle, self._next, session.protocol.read_bytes))
                self._next += session.protocol.read_bytes
            if not self._blocks:
                return b""
            first = self._blocks[0]
            while first.answer is None:
                self._news.clear()
                await self._news.wait()
                self._live()
            self._blocks.popleft()
            self._kept -= first.length
            if not isinstance(first.answer, Status):
                got = len(first.answer)
                if got < first.length:  # the rest of it comes before what follows
                    rest = self._ask(session, handle, first.offset + got, first.length - got)
                    self._blocks.appendleft(rest)
                return first.answer
            if first.answer.code != packets.EOF:
                raise refusal(first.answer, "read", session.address, self.path)
            self._size = first.offset
            self._blocks.clear()
            self._kept = 0

    def _ask(self, session: Session, handle: bytes, offset: int, length: int) -> _Block:
        block = _Block(offset, length, self._news.set)
        self._kept += length
        session.protocol.read(handle, offset, length, block.take, self)
        return block


class RangeStream(_Stream):
    """A remote file of which any part may be asked for."""

    def __init__(self, path: str, raw: bytes, on_released: Released) -> None:
        super().__init__(path, raw, "r", on_released)

    def read_range(self, offset: int, length: int) -> asyncio.Future[bytes]:
        """Ask for bytes; the future gets them, perhaps fewer, none at the end of the file, or an error."""
        session, handle = self._live()
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(answer: bytes | Status) -> None:
            if answered.done():
                return
            if not isinstance(answer, Status):
                answered.set_result(answer)
            elif answer.code == packets.EOF:
                answered.set_result(b"")
            else:
                answered.set_exception(refusal(answer, "read", session.address, self.path))
                answered.exception()  # read: whoever asked may have ended by an earlier one

        session.protocol.read(handle, offset, length, take, _Settles(answered))
        return answered


class WriteStream(_Stream):
    """A remote file that is written from its beginning, by one task at a time. It is seen while it grows.

    Args:
        path: Its path.
        raw: The same as bytes.
        mode: ``w`` empties a file that is there, ``x`` refuses it.
        window_bytes: Sent and not answered yet, at most.
        on_released: Called once, when the place on the session is free again.
    """

    def __init__(self, path: str, raw: bytes, mode: str, window_bytes: int, on_released: Released) -> None:
        super().__init__(path, raw, mode, on_released)
        self._window = window_bytes
        self._offset = 0
        self._unanswered = 0

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send bytes; returns how many, as soon as the window takes them.

        Raises:
            SFTPError: The server has refused these or earlier ones.
            SFTPConnectionLost: The connection is lost.
        """
        view = memoryview(bytes(data))
        while view:
            await self._until(self._window)
            session, handle = self._live()
            piece, view = view[: session.protocol.write_bytes], view[session.protocol.write_bytes :]
            session.protocol.write(handle, self._offset, piece, partial(self._written, len(piece)), self)
            self._unanswered += len(piece)  # not where that raises: nobody would answer
            self._offset += len(piece)
        return len(data)

    async def flush(self) -> None:
        """Wait until the server has taken all that was written.

        Raises:
            SFTPError: It has refused some of it.
        """
        await self._until(1)

    async def close(self) -> None:
        """Wait for the last answers and close it.

        Raises:
            SFTPError: The server has refused some of what was written.
        """
        try:
            if self._closing is None and self._error is None and self._handle is not None:
                await self._until(1)
        finally:
            await super().close()
        if self._error is not None:
            raise self._error

    async def _until(self, below: int) -> None:
        self._live()
        while self._unanswered >= below:
            self._news.clear()
            await self._news.wait()
            self._live()

    def _written(self, size: int, answer: Status) -> None:
        self._unanswered -= size
        if answer.code != packets.OK and self._session is not None:
            self.fail(refusal(answer, "write", self._session.address, self.path))
        self._news.set()


class _Block:
    """One READ and its answer."""

    __slots__ = ("_tell", "answer", "length", "offset")

    def __init__(self, offset: int, length: int, tell: Callable[[], None]) -> None:
        self.offset = offset
        self.length = length
        self.answer: bytes | Status | None = None
        self._tell = tell

    def take(self, answer: bytes | Status) -> None:
        """Take the answer."""
        self.answer = answer
        self._tell()


class _Settles(Generic[T]):
    """Gives a request's answer, or the news that there will be none, to a future."""

    def __init__(self, future: asyncio.Future[T]) -> None:
        self._future = future

    def take(self, answer: T) -> None:
        """Take the answer."""
        if not self._future.done():
            self._future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Take that there will be no answer."""
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # read: whoever asked may be gone
