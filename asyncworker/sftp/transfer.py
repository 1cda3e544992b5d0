"""One file on its way from the server: OPEN, FSTAT and READs in one flight, then CLOSE. Callbacks, no task of its own.

The caller has its file as soon as the last byte is written; the slot is given back when the server has answered the
CLOSE, because until then the handle is open there. CLOSE is never sent along with READ: a server may answer with fewer
bytes than asked for, and the rest needs the handle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

from msgspec import Struct

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileChanged, SFTPReadInterrupted
from asyncworker.sftp import packets
from asyncworker.sftp.background import BackgroundWriter
from asyncworker.sftp.file_end import ReadTo, other_size
from asyncworker.sftp.localfile import LocalFile
from asyncworker.sftp.open_files import OpensFiles
from asyncworker.sftp.packets import Attributes, Status
from asyncworker.sftp.protocol import Answer
from asyncworker.sftp.session import Released, Session, refusal

__all__ = ["Download", "Transfer"]

#: Of one file, requested and not yet on the disk, at most.
_WINDOW_BYTES = 4 * 1024 * 1024
#: Files up to this size are written by the loop's own thread.
_ON_LOOP_BYTES = 1024 * 1024


class Transfer(Struct, frozen=True, gc=False):
    """A file that has arrived whole.

    Attributes:
        remote: Its path on the server.
        local: Its path here.
        size_bytes: Its size.
        mtime: When it was last changed, seconds since 1970, UTC; ``None`` if the server does not say.
    """

    remote: str
    local: str
    size_bytes: int
    mtime: int | None


class Download(OpensFiles):
    """The state of one file. Its ``future`` gets a :class:`Transfer` or an error.

    Args:
        remote: Path on the server.
        path: The same as bytes.
        local: Where it is to appear.
        size_bytes: Its size where that is known.
        mtime: Its time of change where that is known; with both known, FSTAT is left out, except for a snapshot.
        mode: Its permissions where those are known; FSTAT's win.
        open_file: Makes the local file with those permissions; ``None``: at ``local``.
        sync: Flush it to the disk before it appears.
        read_to: Where it ends: ``size``, ``eof`` or ``snapshot``.
        read_once: Fail for good if the connection is lost once OPEN was sent, and have the file safe here before CLOSE.
        executor: Gives the executor for large files.
        on_released: Called once, when the slot on that session is free again.
    """

    __slots__ = (
        "_announced", "_asked", "_attributes_due", "_closing", "_early", "_eof_at", "_executor", "_file",
        "_got", "_handle", "_mode", "_mtime", "_next", "_on_released", "_open_file", "_opening", "_path", "_read_once",
        "_read_to", "_session", "_size", "_stop", "_sync", "_writer", "future", "local", "remote",
    )  # fmt: skip

    def __init__(
        self,
        remote: str,
        path: bytes,
        local: str,
        *,
        size_bytes: int | None,
        mtime: int | None,
        mode: int | None = None,
        open_file: Callable[[int | None], LocalFile] | None = None,
        sync: bool = False,
        read_to: ReadTo = "size",
        read_once: bool = False,
        executor: Callable[[], Executor],
        on_released: Released,
    ) -> None:
        self.remote = remote
        self.local = local
        self.future: asyncio.Future[Transfer] = asyncio.get_running_loop().create_future()
        self._path = path
        self._mtime = mtime
        self._mode = mode
        self._open_file = open_file or partial(LocalFile, local)
        self._sync = sync
        self._read_to = read_to
        self._read_once = read_once
        self._executor = executor
        self._on_released = on_released
        self._session: Session | None = None
        self._handle: bytes | None = None
        self._opening = False
        self._closing = False
        self._attributes_due = size_bytes is None or mtime is None or read_to == "snapshot"  # what it has by then
        self._early: tuple[int, int, Answer] | None = None  # data that came before the attributes
        self._asked = 0  # bytes of READs without an answer
        self._next = 0  # where the next READ begins
        self._got = 0
        self._announced: int | None = None
        self._size: int | None = None  # where it ends, as far as that is known
        self._stop = 0  # READs are sent ahead up to here; beyond it, one at a time until EOF
        self._eof_at: int | None = None  # the first place where EOF was answered
        if size_bytes is not None:
            self._announce(size_bytes)
        self._file: LocalFile | None = None
        self._writer: BackgroundWriter | None = None

    @property
    def leftover(self) -> str | None:
        """Path of its temporary file here, while there is one."""
        return None if self._file is None else self._file.temporary_path

    def remove_here(self) -> None:
        """Remove its temporary file here; nothing else can be done with it after that."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def descriptors(self, read_bytes: int) -> int:
        """Return how many it may keep open: none if the file comes in one piece, and is closed at once."""
        small = not self._attributes_due and self._read_to == "size" and self._stop <= read_bytes
        if small and not (self._sync or self._read_once):
            return 0
        own_folder = isinstance(self._open_file, partial) and self._open_file.func is not LocalFile
        return 2 if own_folder else 1

    def start(self, session: Session) -> None:
        """Take a slot of that session and begin."""
        self._session = session
        self._opening = True
        session.protocol.open(self._path, self._opened, self)

    def abandon(self) -> None:
        """Stop, because nobody waits any more: nothing stays here, and the slot is given back as soon as it can be."""
        self.future.cancel()
        self._drop()

    def fail(self, error: Exception) -> None:
        """Stop with that error. Also what the protocol calls for each request that gets no answer."""
        if not self.future.done():
            if self._read_once and isinstance(error, SFTPConnectionLost) and self._session is not None:
                error = self._error(
                    SFTPReadInterrupted, f"the connection was lost after {self._got} bytes; it may be read only once"
                )
            self.future.set_exception(error)
        self._drop()

    # -- answers -----------------------------------------------------------------------------------------------------

    def _opened(self, answer: bytes | Status) -> None:
        self._opening = False
        if isinstance(answer, Status):
            self.fail(self._refused(answer, "open"))
            return
        self._handle = answer
        if self.future.done():
            self._drop()
        elif self._attributes_due:
            protocol = self._live().protocol
            protocol.fstat(answer, self._attributes, self)
            # In the same flight, before the size is known: most files fit into one READ.
            self._read(0, protocol.read_bytes)
            self._next = protocol.read_bytes
        else:
            self._ask()

    def _attributes(self, answer: Attributes | Status) -> None:
        self._attributes_due = False
        if self.future.done():
            self._drop()
            return
        # What the server refuses to tell is not told: the file is open, and some are used up by that.
        told = Attributes() if isinstance(answer, Status) else answer
        if told.file_type not in ("file", None):
            kind = "a folder" if told.is_dir else "not a regular file"
            self.fail(self._error(SFTPError, f"it is {kind}"))
            return
        if told.size_bytes is not None:
            if self._read_to == "size" and self._announced not in (None, told.size_bytes):
                self.fail(self._other_size(f"the open file has {told.size_bytes}"))
                return
            self._announce(told.size_bytes)
        if self._mtime is None:
            self._mtime = told.mtime
        self._mode = self._mode if told.mode is None else told.mode
        if self._early is not None:
            early, self._early = self._early, None
            self._data(*early)
        else:
            self._advance()

    def _announce(self, size: int) -> None:
        """Take the size that the server says; whether it is the end depends on ``read_to``."""
        self._announced = size
        if self._read_to == "eof":
            self._stop = size
        else:
            self._size = size
            # One byte past the end shows a file that has grown, or one that is only said to be empty.
            self._stop = size if size and self._read_to == "snapshot" else size + 1

    def _data(self, offset: int, length: int, answer: bytes | Status) -> None:
        if self._attributes_due:
            self._early = (offset, length, answer)
            return
        if self._size == 0 and not self.future.done() and not isinstance(answer, Status):
            self._doubt(offset, length, answer)
            return
        self._asked -= length
        if self.future.done():
            self._drop()
        elif isinstance(answer, Status):
            self._no_data(offset, answer)
        else:
            end = offset + len(answer)
            if self._size is not None and end > self._size:
                if self._read_to == "snapshot":
                    answer, end = answer[: self._size - offset], self._size
                else:
                    self.fail(self._other_size("more follow"))
                    return
            self._got += len(answer)
            self._write(offset, answer)
            if len(answer) < length and (self._size is None or end < self._size):
                self._read(end, offset + length - end)
            self._advance()

    def _no_data(self, offset: int, status: Status) -> None:
        if status.code != packets.EOF and not (self._size and offset >= self._size):
            self.fail(self._refused(status, "read"))
        else:  # servers that have no EOF refuse to read beyond it
            if self._size is None or offset < self._size:
                self._eof_at = offset if self._eof_at is None else min(offset, self._eof_at)
            self._advance()

    def _doubt(self, offset: int, length: int, answer: bytes) -> None:
        """Ask once more for the size of a file that has bytes, and is said to have none."""
        self._early = (offset, length, answer)
        self._attributes_due = True
        assert self._handle is not None
        self._live().protocol.fstat(self._handle, self._asked_again, self)

    def _asked_again(self, answer: Attributes | Status) -> None:
        self._attributes_due = False
        if self.future.done() or self._early is None:
            self._drop()
            return
        size = None if isinstance(answer, Status) else answer.size_bytes
        if not size:  # as in /proc, or of messages that are made while they are read: only EOF tells
            self._size, self._stop = None, 0
        elif self._read_to == "size":  # somebody is writing it
            self.fail(self._other_size(f"it has {size} now"))
            return
        else:
            self._announce(size)
        early, self._early = self._early, None
        self._data(*early)

    def _closed(self, _: Status) -> None:
        self._release()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Keep a window of READs under way; where the end is not known, one at a time beyond what was announced."""
        if self._eof_at is not None:
            return
        block = self._live().protocol.read_bytes
        window = _WINDOW_BYTES - (self._writer.queued if self._writer else 0)
        while self._next < self._stop and self._asked < window:
            # The whole block of a file of no bytes: if there are some, none of them is asked for twice.
            length = min(block, self._stop - self._next) if self._size else block
            self._read(self._next, length)
            self._next += length
        if self._size is None and self._next >= self._stop and not self._asked and window > 0:
            self._read(self._next, block)
            self._next += block

    def _read(self, offset: int, length: int) -> None:
        assert self._handle is not None
        self._asked += length
        self._live().protocol.read(self._handle, offset, length, partial(self._data, offset, length), self)

    def _write(self, offset: int, data: bytes) -> None:
        if self._file is None:
            self._file = self._open_file(self._mode)
            if self._size is None or self._size > _ON_LOOP_BYTES:
                self._writer = BackgroundWriter(self._file, self._executor(), self._written, self.fail)
        if self._writer is None:
            self._file.write(((offset, data),))
        else:
            self._writer.add(offset, data)

    def _written(self) -> None:
        try:
            if not self.future.done():
                self._advance()
        except Exception as error:
            self.fail(error)

    def _advance(self) -> None:
        """Ask for more, or be done."""
        if self._eof_at is not None and not self._asked and not self._found_end():
            return
        if self._asked or self._size is None or self._got < self._size or self._next < self._stop:
            self._ask()
        elif self._writer is None or not self._writer.queued:
            self._commit(self._size)

    def _found_end(self) -> bool:
        """Take the place of EOF as the end, if there may be one."""
        if self._size is not None and self._size != self._eof_at:
            self.fail(self._other_size(f"it ends after {self._eof_at}"))
        elif self._got != self._eof_at:  # bytes beyond it had come before
            self.fail(self._other_size(f"it was cut off after {self._eof_at} meanwhile"))
        else:
            self._size, self._stop = self._got, 0
            return True
        return False

    def _commit(self, size: int) -> None:
        file = self._file or self._open_file(self._mode)
        self._file = self._writer = None
        if self._sync:
            self._executor().submit(file.commit, self._mtime, True).add_done_callback(self._synced)
            if self._read_once:
                return  # the server may take the file with its CLOSE
        else:
            file.commit(self._mtime)
            self.future.set_result(Transfer(self.remote, self.local, size, self._mtime))
        self._close()

    def _synced(self, done: Future[None]) -> None:
        """On the thread: the file has its name, or an error tells why not."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self.future.get_loop().call_soon_threadsafe(self._take_synced, done)

    def _take_synced(self, done: Future[None]) -> None:
        error = done.exception()
        if not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            else:
                assert self._size is not None
                self.future.set_result(Transfer(self.remote, self.local, self._size, self._mtime))
        self._drop()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Leave nothing here, and see that the slot is given back. May be called again."""
        file, self._file = self._file, None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()
        elif file is not None:
            file.discard()
        if self._session is not None and not self._session.alive:
            self._release()
        else:
            self._close()

    def _close(self) -> None:
        if self._session is None or self._opening or self._closing:
            return  # no slot taken, or the answer that is due goes on from here
        if self._handle is None:
            self._release()
        else:
            self._closing = True
            self._session.protocol.close(self._handle, self._closed, self)

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._on_released(session, self)

    def _live(self) -> Session:
        assert self._session is not None
        return self._session

    # -- errors ------------------------------------------------------------------------------------------------------

    def _refused(self, status: Status, action: str) -> SFTPError:
        return refusal(status, action, self._live().address, self.remote)

    def _other_size(self, what: str) -> SFTPError:
        return self._error(SFTPFileChanged, other_size(self._announced, what))

    def _error(self, kind: type[SFTPError], what: str) -> SFTPError:
        address = self._live().address
        return kind(f"{address}: {self.remote}: {what}", host=address, path=self.remote)
