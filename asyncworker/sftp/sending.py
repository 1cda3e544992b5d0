"""One file on its way to the server: OPEN, WRITEs, FSETSTAT, CLOSE, and a rename once it is whole. Callbacks, no task.

It is written under a temporary name beside its goal. The place on the session is given back when the last answer has
come. No CLOSE is sent along with WRITEs: some servers take the requests for one file in another order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

from asyncworker.errors import SFTPError, SFTPFileChanged
from asyncworker.sftp import packets
from asyncworker.sftp.listing import not_replaceable
from asyncworker.sftp.localsource import Block, LocalSource
from asyncworker.sftp.names import remote_text
from asyncworker.sftp.open_files import OpensFiles
from asyncworker.sftp.packets import Attributes, OpenFlag, Status
from asyncworker.sftp.placing import Doubt, Outcome, Placing, Procedure, log_kept
from asyncworker.sftp.session import Released, Session, refusal
from asyncworker.sftp.temporary_names import temporary_name
from asyncworker.sftp.transfer import Transfer

__all__ = ["Upload"]

logger = logging.getLogger(__name__)

#: Of one file, sent and not answered yet, at most.
_WINDOW_BYTES = 4 * 1024 * 1024
#: Read in one piece: the beginning, which is all of most files, and what follows.
_FIRST_BYTES = 64 * 1024
_BLOCK_BYTES = 1024 * 1024


class Upload(OpensFiles):
    """The state of one file. Its ``future`` gets a :class:`~asyncworker.sftp.transfer.Transfer` or an error.

    Args:
        local: Path here.
        remote: Path on the server.
        path: The same as bytes.
        source: Opens the local file; called on a thread.
        mode: Its permissions there; ``None``: those it has here. Set-user-id and the like are never passed on.
        mtime: Whether to pass on the time of change.
        fsync: Whether to have the server flush it to its disk, where it offers that.
        executor: Gives the executor for reading.
        on_released: Called once, when the place on that session is free again.
        on_left: Called with the path of a temporary file that could not be removed, its connection being lost.
        on_aside: Called with two paths, if the connection is lost while the file that is replaced is under the first
            of them and not under the second, its own.
        doubt: That of all tries of this file.
        asks_first: Whether to ask what is there, beside the OPEN: a device, a pipe or a socket is not replaced.
    """

    __slots__ = (
        "_asking", "_asks_first", "_block", "_closing", "_doubt", "_executor", "_fsync", "_handle", "_last", "_loop",
        "_mode", "_mtime", "_next", "_on_aside", "_on_left", "_on_released", "_opening", "_path", "_reading",
        "_renaming", "_sent", "_session", "_set_mtime", "_source", "_source_of", "_temporary", "_there",
        "_unanswered", "_waiting", "_whole", "future", "local", "remote",
    )  # fmt: skip

    def __init__(
        self,
        local: str,
        remote: str,
        path: bytes,
        *,
        source: Callable[[], LocalSource],
        mode: int | None,
        mtime: bool,
        fsync: bool,
        executor: Callable[[], Executor],
        on_released: Released,
        on_left: Callable[[bytes], None],
        on_aside: Callable[[bytes, bytes], None],
        doubt: Doubt,
        asks_first: bool,
    ) -> None:
        self.local = local
        self.remote = remote
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Transfer] = self._loop.create_future()
        self._path = path
        self._temporary = _temporary(path)
        self._source_of = source
        self._mode = mode
        self._set_mtime = mtime
        self._mtime: int | None = None
        self._fsync = fsync
        self._executor = executor
        self._on_released = on_released
        self._on_left = on_left
        self._on_aside = on_aside
        self._doubt = doubt
        self._asks_first = asks_first
        self._asking = False
        self._session: Session | None = None
        self._source: LocalSource | None = None
        self._handle: bytes | None = None
        self._block = memoryview(b"")  # read and not sent
        self._next = 0  # where the next reading begins
        self._sent = 0
        self._last = False  # all has been read
        self._unanswered = 0
        self._reading = False
        self._opening = self._closing = self._renaming = False
        self._there = False  # the temporary file may exist
        self._whole = False
        self._waiting = False  # for room among what the session has not answered

    @property
    def leftover(self) -> str | None:
        """Path of its temporary file while that may be on the server."""
        return remote_text(self._temporary) if self._there else None

    def descriptors(self, read_bytes: int) -> int:
        """Return how many it may keep open: that of its source."""
        return 1

    def start(self, session: Session) -> None:
        """Take a place on that session and begin."""
        self._session = session
        self._read()

    def abandon(self) -> None:
        """Stop, because nobody waits any more: the temporary file is removed, then the place is given back."""
        self.future.cancel()
        self._drop()

    def fail(self, error: Exception) -> None:
        """Stop with that error. Also what the protocol calls for each request that gets no answer."""
        if not self.future.done():
            self.future.set_exception(self._doubt.error(error))
            self._doubt.raised |= self._renaming  # the rename that was not answered may have been done
        self._drop()

    # -- reading, on a thread ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._reading = True
        reading = self._executor().submit(self._read_on_thread, self._next)
        reading.add_done_callback(self._from_thread)

    def _read_on_thread(self, offset: int) -> Block:
        if self._source is None:
            self._source = self._source_of()
            return self._source.read(0, _FIRST_BYTES)
        return self._source.read(offset, _BLOCK_BYTES)

    def _from_thread(self, done: Future[Block]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._have_read, done)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._close_source()

    def _have_read(self, done: Future[Block]) -> None:
        self._reading = False
        error = None if done.cancelled() else done.exception()
        if self.future.done():
            self._drop()
        elif error is not None or done.cancelled():
            self.fail(error if isinstance(error, Exception) else RuntimeError(f"{self.local}: reading ended: {error}"))
        else:
            try:
                self._take(done.result())
            except Exception as problem:  # the session may have ended
                self.fail(problem)

    def _take(self, block: Block) -> None:
        assert self._source is not None
        if block.changed is not None:
            size = self._source.size
            raise self._error(
                SFTPFileChanged, f"{self.local} was {size} bytes long, is {block.changed}: it changed while it was read"
            )
        self._last = block.last
        self._block = memoryview(block.data)
        self._next += len(block.data)
        if self._handle is None:
            self._mtime = self._source.mtime if self._set_mtime else None
            mode = self._source.mode if self._mode is None else self._mode & 0o777
            how = packets.open_tail(OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE, mode)
            self._opening = self._there = True
            protocol = self._live().protocol
            if self._asks_first:
                self._asking = True
                protocol.lstat(self._path, self._told, self)
            protocol.open(self._temporary, self._opened, self, how)
        else:
            self._advance()

    # -- answers -----------------------------------------------------------------------------------------------------

    def _told(self, answer: Attributes | Status) -> None:
        self._asking = False
        if self.future.done():
            self._drop()
        elif isinstance(answer, Attributes) and answer.file_type == "other":
            self.fail(not_replaceable(self.remote, self._live().address))
        elif self._whole:  # the server has answered in another order
            self._rename()

    def _opened(self, answer: bytes | Status) -> None:
        self._opening = False
        if isinstance(answer, Status):
            self._there = False
            self.fail(refusal(answer, "write", self._live().address, self.remote, creates=True))
            return
        self._handle = answer
        if self.future.done():
            self._drop()
        else:
            self._advance()

    def _written(self, size: int, answer: Status) -> None:
        if self._session is None:  # the server has answered the CLOSE first
            return
        self._unanswered -= size
        self._session.wrote(size)
        if self.future.done():
            self._drop()
        elif answer.code != packets.OK:
            self.fail(refusal(answer, "write", self._live().address, self.remote))
        else:
            self._advance()

    def _attributes_set(self, answer: Status) -> None:
        if answer.code != packets.OK:  # some servers let nobody set the time; the file is well without it
            self._mtime = None

    def _flushed(self, answer: Status) -> None:
        if answer.code != packets.OK:
            self.fail(refusal(answer, "flush", self._live().address, self.remote))

    def _closed(self, answer: Status) -> None:
        self._handle = None
        self._closing = False
        if self.future.done():
            self._drop()
        elif answer.code != packets.OK:
            self.fail(refusal(answer, "write", self._live().address, self.remote))
        else:
            self._whole = True
            if not self._asking:
                self._rename()

    def _rename(self) -> None:
        self._renaming = True
        protocol = self._live().protocol
        protocol.rename(self._temporary, self._path, partial(self._renamed, protocol.renames_over), self)

    def _renamed(self, in_one_step: bool, answer: Status) -> None:
        if answer.code == packets.OK:  # nearly always: the rest of the procedure is not even made
            self._placed(())
        elif self.future.done():
            self._renaming = False
            self._drop()
        else:
            placing = Placing(self._live().protocol, self._temporary, self._path)
            ended, lost = partial(self._end_placing, placing), partial(self._lost_while_placing, placing)
            Procedure(placing.steps_after(answer, in_one_step), ended, lost).start()

    def _end_placing(self, placing: Placing, outcome: Outcome) -> None:
        if placing.aside is not None:
            self._on_aside(placing.aside, self._path)
        if outcome.status.code == packets.OK:
            self._placed(outcome.kept)
            return
        self._renaming = False
        self.fail(outcome.error("write", self._live().address, self.remote))

    def _lost_while_placing(self, placing: Placing, error: Exception) -> None:
        if placing.aside is not None:
            self._on_aside(placing.aside, self._path)
        self.fail(error)

    def _placed(self, kept: tuple[bytes, ...]) -> None:
        self._renaming = self._there = False
        if kept:
            log_kept(self._live().address, self._path, kept)
        if not self.future.done():
            self.future.set_result(Transfer(self.remote, self.local, self._sent, self._mtime))
        self._release()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Send what there is, within the window; read more; or be done."""
        session = self._live()
        assert self._handle is not None
        if self._waiting:
            return
        while self._block and self._unanswered < _WINDOW_BYTES:
            if not session.may_write(self):
                self._waiting = True
                return
            piece = self._block[: session.protocol.write_bytes]
            self._block = self._block[len(piece) :]
            self._unanswered += len(piece)
            session.writes(len(piece))
            session.protocol.write(self._handle, self._sent, piece, partial(self._written, len(piece)), self)
            self._sent += len(piece)
        if self._block or self._reading:
            return
        if not self._last:
            self._read()
        elif not self._unanswered and not self._closing:
            self._finish(session, self._handle)

    def go_on(self) -> None:
        """Take that the session has room again for what is to be written."""
        self._waiting = False
        if self.future.done() or self._handle is None:
            return
        try:
            self._advance()
        except Exception as error:
            self.fail(error)

    def _finish(self, session: Session, handle: bytes) -> None:
        if self._mtime is not None:
            times = packets.attributes_bytes(mtime=self._mtime)
            session.protocol.set_attributes(handle, times, self._attributes_set, self)
        if self._fsync and session.protocol.flushes:
            session.protocol.fsync(handle, self._flushed, self)
        self._closing = True  # from here on an answer is due, which a failure waits for
        session.protocol.close(handle, self._closed, self)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Leave nothing here or there, and see that the place is given back. May be called again."""
        self._block = memoryview(b"")
        if not self._reading:
            self._close_source()
        session = self._session
        if session is None:
            return
        if not session.alive:
            if self._there:
                self._on_left(self._temporary)
            self._there = False
            self._release()
        elif self._opening or self._closing or self._renaming:
            return  # the answer that is due goes on from here
        elif self._handle is not None:
            self._closing = True
            session.protocol.close(self._handle, self._closed, self)
        elif self._there:
            self._renaming = True
            session.protocol.remove(self._temporary, self._removed, self)
        elif not self._reading:
            self._release()

    def _removed(self, answer: Status) -> None:
        if answer.code not in (packets.OK, packets.NO_SUCH_FILE):
            refused = refusal(answer, "remove", self._live().address, remote_text(self._temporary))
            logger.warning("a temporary file is left on the server: %s", refused)
        self._renaming = self._there = False
        self._release()

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            left, self._unanswered = self._unanswered, 0
            session.wrote(left)
            self._on_released(session, self)

    def _live(self) -> Session:
        assert self._session is not None
        return self._session

    def _error(self, kind: type[SFTPError], what: str) -> SFTPError:
        address = self._live().address
        return kind(f"{address}: {what}", host=address, path=self.remote)


def _temporary(path: bytes) -> bytes:
    folder, slash, name = path.rpartition(b"/")
    return folder + slash + temporary_name(name)
