"""Attributes that a listing leaves out, asked for by many LSTATs at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from asyncworker.sftp import packets
from asyncworker.sftp.packets import Attributes, Name, Status
from asyncworker.sftp.protocol import Owner
from asyncworker.sftp.session import Session

__all__ = ["Batch", "Untold"]

#: LSTATs under way at most, for one folder.
_AT_ONCE = 128
_TYPE_BITS = 0o170000


class Batch:
    """The names of one READDIR, in the server's order.

    Attributes:
        names: With what LSTAT has added.
        refused: LSTAT's refusals, by the place of the name.
        missing: Names that are waited for.
    """

    __slots__ = ("missing", "names", "refused")

    def __init__(self, names: Sequence[Name]) -> None:
        self.names = names
        self.refused: dict[int, Status] = {}
        self.missing = 0


class Untold:
    """Asks for the type of each name that has none, and for the size and the time of change of each such file.

    Args:
        folder: Its path, as bytes.
        on_complete: Called when a batch has got all its answers, and when no answer is due any more.
        owner: Whose requests these are.
    """

    def __init__(self, folder: bytes, on_complete: Callable[[], None], owner: Owner) -> None:
        self._folder = folder if folder.endswith(b"/") or not folder else folder + b"/"
        self._on_complete = on_complete
        self._owner = owner
        self._waiting: deque[tuple[Batch, int]] = deque()
        self._asked = 0
        self._by_stat = False  # the server knows no LSTAT, and so no links
        self._answers = 0
        self._all_told = False  # LSTAT has told no more of a file than the listing

    @property
    def busy(self) -> bool:
        """Whether there is something to ask, or an answer due."""
        return bool(self._waiting or self._asked)

    def batch(self, names: tuple[Name, ...], session: Session) -> Batch:
        """Take an answer to READDIR, and ask for what it does not tell."""
        batch = Batch(names)
        for place, name in enumerate(names):
            told = name.attributes
            mode = told.mode
            if mode is not None and mode & _TYPE_BITS and told.size_bytes is not None and told.mtime is not None:
                continue  # as a rule
            if told.file_type is not None and (self._all_told or not told.is_file):
                continue
            filename = name.filename
            if filename in (b"", b".", b"..") or b"/" in filename or b"\0" in filename:
                continue  # refused or left out by whoever takes the names
            batch.missing += 1
            self._waiting.append((batch, place))
        if batch.missing:
            batch.names = list(names)
            self._ask(session)
        return batch

    def forget(self) -> None:
        """Ask for nothing more."""
        self._waiting.clear()

    def _ask(self, session: Session) -> None:
        while self._waiting and self._asked < _AT_ONCE:
            batch, place = self._waiting[0]
            if batch.names[place].attributes.file_type is not None:
                if self._asked and not self._answers:
                    return  # the first answer shows whether it is worth asking for sizes and times
                if self._all_told:
                    self._waiting.popleft()
                    self._settle(batch)
                    continue
            self._waiting.popleft()
            self._send(session, batch, place)

    def _send(self, session: Session, batch: Batch, place: int) -> None:
        send = session.protocol.stat if self._by_stat else session.protocol.lstat
        path = self._folder + batch.names[place].filename
        send(path, partial(self._answered, session, batch, place, self._by_stat), self._owner)
        self._asked += 1

    def _answered(self, session: Session, batch: Batch, place: int, by_stat: bool, answer: Attributes | Status) -> None:
        self._asked -= 1
        self._answers += 1
        if isinstance(answer, Status):
            if not by_stat and answer.code in (packets.UNSUPPORTED, packets.BAD_MESSAGE):
                self._by_stat = True
                self._send(session, batch, place)
                return
            batch.refused[place] = answer
            if answer.code != packets.NO_SUCH_FILE:  # it has just gone
                self._all_told |= batch.names[place].attributes.file_type is not None
        else:
            name = batch.names[place]
            known = _together(name.attributes, answer)
            assert isinstance(batch.names, list)
            batch.names[place] = Name(name.filename, known)
            self._all_told |= known == name.attributes and known.file_type is not None
        if session.alive:
            self._ask(session)
        self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        batch.missing -= 1
        if not batch.missing or not self.busy:
            self._on_complete()


def _together(listed: Attributes, told: Attributes) -> Attributes:
    """Return the attributes of both; LSTAT, the later one, has precedence."""
    mode = listed.mode if told.mode is None or (told.file_type is None and listed.file_type is not None) else told.mode
    return Attributes(
        listed.size_bytes if told.size_bytes is None else told.size_bytes,
        mode,
        listed.mtime if told.mtime is None else told.mtime,
        listed.atime if told.atime is None else told.atime,
        listed.uid if told.uid is None else told.uid,
        listed.gid if told.gid is None else told.gid,
    )
