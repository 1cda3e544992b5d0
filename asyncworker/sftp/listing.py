"""A folder read with many READDIRs under way: the answers come in order, and nobody waits for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Literal

from msgspec import Struct

from asyncworker.errors import SFTPError, SFTPNameError, SFTPTypeUnknown
from asyncworker.sftp import packets
from asyncworker.sftp.connections import Connections
from asyncworker.sftp.endless import EndlessListing
from asyncworker.sftp.names import check_name, remote_text
from asyncworker.sftp.packets import Attributes, FileType, Name, Status
from asyncworker.sftp.session import Session, refusal
from asyncworker.sftp.temporary_names import is_ours
from asyncworker.sftp.untold import Batch, Untold

__all__ = ["BadNames", "Entry", "Listing", "age_unknown", "not_regular", "not_replaceable", "type_unknown"]

logger = logging.getLogger(__name__)

#: What becomes of a name that is not safe to write locally: an error, a line in the log, or a call.
BadNames = Literal["raise", "skip"] | Callable[[SFTPNameError], None]

#: READDIRs that are under way, or answered and not taken yet. 17,000 names at 20 ms: 3.4 s one by one, 0.28 s so.
_AHEAD = 32
#: At first: most folders are small, and more would be asked in vain for each of them.
_FIRST_AHEAD = 8


class Entry(Struct, frozen=True, gc=False):
    """One name of a folder.

    Attributes:
        name: Its name, checked: one plain component.
        path: The folder's path and the name.
        attributes: What the server says of it; of a link, not of what it leads to. Where the listing does not say
            what it is, LSTAT was asked.
        refused: Why LSTAT said nothing, if that was so.
    """

    name: str
    path: str
    attributes: Attributes
    refused: Status | None = None

    @property
    def size_bytes(self) -> int | None:
        """Its size, where the server says it."""
        return self.attributes.size_bytes

    @property
    def mtime(self) -> int | None:
        """When it was last changed, seconds since 1970, UTC."""
        return self.attributes.mtime

    @property
    def mode(self) -> int | None:
        """Type and permissions, as ``os.stat`` has them."""
        return self.attributes.mode

    @property
    def file_type(self) -> FileType | None:
        """``file``, ``dir``, ``link`` or ``other``; ``None`` where the server does not say."""
        return self.attributes.file_type

    @property
    def is_file(self) -> bool:
        """Whether it is known to be a regular file."""
        return self.attributes.is_file

    @property
    def is_dir(self) -> bool:
        """Whether it is known to be a folder."""
        return self.attributes.is_dir

    @property
    def is_unfinished(self) -> bool:
        """Whether its name is one of ours for a file that is not whole yet: of a transfer that runs, or was stopped."""
        return is_ours(self.name)

    @property
    def is_link(self) -> bool:
        """Whether it is known to be a symbolic link."""
        return self.attributes.is_link


class Listing:
    """The state of one folder that is being read.

    Args:
        path: The folder, for paths and messages.
        raw: The same as bytes.
        address: The server, for messages.
        connections: Where it takes its place, and gives it back.
        local_names: Whether a name must be safe to write locally.
    """

    def __init__(self, path: str, raw: bytes, address: str, connections: Connections, local_names: bool = True) -> None:
        self._path = path
        self._address = address
        self._raw = raw
        self._connections = connections
        self._local_names = local_names
        self._batches: deque[Batch] = deque()
        self._untold = Untold(raw, self._completed, self)
        self._endless = EndlessListing()
        self._ahead = _FIRST_AHEAD
        self._news = asyncio.Event()
        self._session: Session | None = None
        self._handle: bytes | None = None
        self._asked = 0
        self._hurried = False
        self._ended = False  # no more names will come
        self._finished = False  # nor attributes
        self._closing = False
        self._error: Exception | None = None

    def start(self, session: Session) -> None:
        """Take a place on that session and begin."""
        self._session = session
        self._connections.hold(self)
        self._asked = 1
        session.protocol.opendir(self._raw, self._opened, self)

    def fail(self, error: Exception) -> None:
        """Stop with that error; what came before is still given out."""
        if not self._finished:
            self._finished = True
            self._error = self._error or error
            self._news.set()
        self._give_back()

    async def entries(self, bad_names: BadNames) -> AsyncIterator[Entry]:
        """Give out what comes, in the server's order.

        Raises:
            SFTPError: The folder cannot be read.
            SFTPNameError: A name is not safe, and ``bad_names`` is ``raise``.
        """
        folder = self._path if self._path.endswith("/") or not self._path else self._path + "/"
        while True:
            while self._batches and not self._batches[0].missing:
                batch = self._batches.popleft()
                self._ask()
                for place, name in enumerate(batch.names):
                    refused = batch.refused.get(place) if batch.refused else None
                    entry = self._entry(folder, name, refused, bad_names)
                    if entry is not None:
                        yield entry
            if self._finished:
                if self._error is not None:
                    raise self._error
                return
            self._news.clear()
            await self._news.wait()

    def hurry(self) -> None:
        """Read to the end into memory, whether somebody takes it or not: others wait for this place."""
        if not self._hurried:
            self._hurried = True
            if self._session is not None and self._session.alive:
                self._ask()

    def abandon(self) -> None:
        """Stop, because nobody waits any more."""
        self.close()

    def close(self) -> None:
        """Read no further, and give the place back as soon as it can be."""
        self._finished = True
        self._batches.clear()
        self._untold.forget()
        self._give_back()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _entry(self, folder: str, name: Name, refused: Status | None, bad_names: BadNames) -> Entry | None:
        if name.filename in (b".", b".."):
            return None
        try:
            checked = check_name(name.filename, host=self._address, folder=self._path, local=self._local_names)
        except SFTPNameError as error:
            error.name, error.is_dir = remote_text(name.filename), name.attributes.is_dir
            if bad_names == "raise":
                raise
            if bad_names == "skip":
                logger.warning("skipped: %s", error)
            else:
                bad_names(error)
            return None
        return Entry(checked, folder + checked, name.attributes, refused)

    def _ask(self) -> None:
        if self._finished or self._ended or self._session is None or self._handle is None:
            return
        while self._asked + (0 if self._hurried else len(self._batches)) < self._ahead:
            self._asked += 1
            self._session.protocol.readdir(self._handle, self._listed, self)

    def _opened(self, answer: bytes | Status) -> None:
        self._asked = 0
        if isinstance(answer, Status):
            self.fail(refusal(answer, "list", self._address, self._path))
            self._release()  # there is no handle to close
            return
        self._handle = answer
        if self._finished:
            self._give_back()
        else:
            self._ask()

    def _listed(self, answer: tuple[Name, ...] | Status) -> None:
        self._asked -= 1
        if self._finished or self._ended:
            pass  # those that were asked for too many
        elif not isinstance(answer, Status):
            self._take(answer)
        elif answer.code == packets.EOF:
            self._end(None)
        else:
            self._end(refusal(answer, "list", self._address, self._path))
        self._give_back()

    def _take(self, names: tuple[Name, ...]) -> None:
        assert self._session is not None
        fault = self._endless.see(names)
        if fault is not None:
            where = self._address
            self._end(SFTPError(f"{where}: gave up listing {self._path}: {fault}", host=where, path=self._path))
            return
        self._batches.append(self._untold.batch(names, self._session))
        self._news.set()
        if self._ahead < _AHEAD:  # the end may be in what has just arrived
            self._ahead = _AHEAD
            asyncio.get_running_loop().call_soon(self._ask_on)
        elif self._hurried:
            self._ask()

    def _ask_on(self) -> None:
        if self._session is not None and self._session.alive:
            self._ask()

    def _end(self, error: Exception | None) -> None:
        """Take that no more names will come; those that are there get their attributes first."""
        self._ended = True
        self._error = error
        self._completed()

    def _completed(self) -> None:
        """Take that a batch has its attributes, or that no more names will come."""
        if self._ended and not self._untold.busy:
            self._finished = True
        self._news.set()
        self._give_back()
        self._release_at_last()

    def _give_back(self) -> None:
        """Close the handle once nobody needs it; the place is free when the server has answered that."""
        session = self._session
        if session is None or not self._finished:
            return
        if not session.alive:  # lost with the CLOSE under way, perhaps
            self._release()
        elif self._handle is not None and not self._closing:
            self._closing = True
            session.protocol.close(self._handle, self._closed, self)

    def _closed(self, _: Status) -> None:
        self._handle = None
        self._release_at_last()

    def _release_at_last(self) -> None:
        """Give the place back once the handle is closed and no LSTAT is on its way."""
        if self._closing and self._handle is None and not self._untold.busy:
            self._release()

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._connections.let_go(self)
            self._connections.release(session, self)


def type_unknown(entry: Entry, address: str) -> SFTPTypeUnknown:
    """The error of an entry that may be a file or a folder."""
    why = "neither its folder nor LSTAT says it" if entry.refused is None else f"LSTAT: {entry.refused}"
    message = f"{address}: it is unknown whether {entry.path} is a file or a folder: {why}"
    return SFTPTypeUnknown(message, host=address, path=entry.path)


def not_replaceable(path: str, address: str) -> SFTPError:
    """The error of what a file must not take the place of."""
    message = f"{address}: {path}: there is a device, a pipe or a socket of that name"
    return SFTPError(message, host=address, path=path)


def not_regular(path: str, address: str) -> SFTPError:
    """The error of a device, a pipe or a socket that was named to be fetched."""
    return SFTPError(f"{address}: {path} is not a regular file", host=address, path=path)


def age_unknown(path: str, address: str) -> SFTPError:
    """The error of a file that may be newer than the one that it is compared with."""
    message = f"{address}: {path}: the server does not say when it was changed, and so not which file is newer"
    return SFTPError(message, host=address, path=path)
