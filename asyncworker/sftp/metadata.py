"""Pool calls that change or resolve one path without moving bytes: modes, times, sizes, links."""

from __future__ import annotations

import os
from collections.abc import Callable

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPPermissionDenied
from asyncworker.sftp import packets
from asyncworker.sftp.calls import Calls, PathLike
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.packets import Attributes, Name, Status
from asyncworker.sftp.request import Command, Request
from asyncworker.sftp.session import Session

__all__ = ["Metadata", "name_taken", "whole_seconds"]

_MODE_MAX = 0o7777
_SIZE_MAX = 2**63 - 1
#: Servers that take the arguments of SYMLINK in the order of the draft from a client like asyncssh.
_DRAFT_ORDER = "AsyncSSH"


class Metadata(Calls):
    """The part of a pool that reads and sets what a file system keeps beside the bytes of a file."""

    #: Whether the server wants the link's path first in a SYMLINK; ``None`` until a link has proved it.
    _link_first: bool | None = None
    #: What its identification says of that.
    _link_first_guess = False

    async def stat(self, path: PathLike, *, follow_links: bool = True) -> Attributes:
        """Return what the server says of a file.

        Raises:
            SFTPFileNotFound: There is none.
            SFTPError: Any other refusal, or no connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Request[Attributes]) -> None:
            send = session.protocol.stat if follow_links else session.protocol.lstat
            send(raw, request.answered, request)

        return await self._twice(lambda: Request(ask, "stat", os.fspath(path), self._connections.release))

    async def exists(self, path: PathLike, *, follow_links: bool = True) -> bool:
        """Return whether a path leads to anything.

        Args:
            path: The path.
            follow_links: Whether a link counts for what it leads to; without, a link that leads nowhere exists.

        Raises:
            SFTPError: The server refuses to say, or there is no connection.
        """
        try:
            await self.stat(path, follow_links=follow_links)
        except SFTPFileNotFound:
            return False
        return True

    async def chmod(self, path: PathLike, mode: int) -> None:
        """Set permissions; those of what a link leads to.

        Args:
            path: A file or a folder.
            mode: 0 to 0o7777. Whether set-user-id and the like are allowed is the server's decision.

        Raises:
            ValueError: ``mode`` is out of that range.
            SFTPFileNotFound: There is no such path.
            SFTPError: Any other refusal, or a lost connection.
        """
        if not 0 <= mode <= _MODE_MAX:
            raise ValueError(f"mode {mode:#o}: 0 to {_MODE_MAX:#o} is allowed")
        await self._set(path, "change the mode of", packets.attributes_bytes(mode=mode))

    async def utime(self, path: PathLike, mtime: float, *, atime: float | None = None) -> None:
        """Set the times; those of what a link leads to.

        Args:
            path: A file or a folder.
            mtime: Time of change, seconds since 1970, UTC. The protocol has whole seconds: a fraction is cut off.
            atime: Time of access, likewise; ``None``: the same, as the protocol has them in pairs.

        Raises:
            ValueError: A time is before 1970 or after 2106, for which the protocol has no room.
            SFTPFileNotFound: There is no such path.
            SFTPError: Any other refusal, or a lost connection.
        """
        changed = whole_seconds(mtime)
        accessed = changed if atime is None else whole_seconds(atime)
        await self._set(path, "set the times of", packets.attributes_bytes(mtime=changed, atime=accessed))

    async def truncate(self, path: PathLike, size_bytes: int) -> None:
        """Cut a file to a size, or extend it with zeros.

        Args:
            path: A file; of a link, what it leads to.
            size_bytes: Its new size.

        Raises:
            ValueError: ``size_bytes`` is negative, or does not fit into 63 bits.
            SFTPFileNotFound: There is no such path.
            SFTPError: Any other refusal, or a lost connection.
        """
        if not 0 <= size_bytes <= _SIZE_MAX:
            raise ValueError(f"a size of {size_bytes} bytes: 0 to {_SIZE_MAX} is allowed")
        await self._set(path, "truncate", packets.attributes_bytes(size=size_bytes))

    async def readlink(self, path: PathLike) -> str:
        """Return where a symbolic link leads to, as it stands in the link: relative, absolute, or nowhere.

        The text is the server's and is not checked. Bytes that are not UTF-8 are kept as surrogate escapes.

        Raises:
            SFTPFileNotFound: There is no such path.
            SFTPError: It is no link, any other refusal, or no connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Request[tuple[Name, ...]]) -> None:
            session.protocol.readlink(raw, request.answered, request)

        return await self._one_name(ask, "read the link", path)

    async def realpath(self, path: PathLike = ".") -> str:
        """Return the absolute path, with links, ``.`` and ``..`` resolved by the server; by default that of the home.

        Whether a path that does not exist is resolved or refused is the server's decision.

        Raises:
            SFTPFileNotFound: There is no such path.
            SFTPError: Any other refusal, or no connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Request[tuple[Name, ...]]) -> None:
            session.protocol.realpath(raw, request.answered, request)

        return await self._one_name(ask, "resolve", path)

    async def symlink(self, target: PathLike, path: PathLike) -> None:
        """Make a symbolic link, with the arguments in the order of :func:`os.symlink`.

        The draft sends the link's path first, OpenSSH and most servers after it the target. Which one a server wants
        is taken from its identification, and proved by reading the first link back.

        Args:
            target: What the link holds: kept as it is, not resolved, and need not exist.
            path: The link.

        Raises:
            SFTPError: The name is taken, the server makes no links, any other refusal, or a lost connection.
        """
        holds, raw = remote_bytes(target), remote_bytes(path)
        if not holds:
            raise ValueError("a link needs a target")
        if self._link_first is not None:
            await self._symlink(holds, raw, self._link_first)
            return
        try:
            link_first = await self._symlink(holds, raw, None)
        except (SFTPFileNotFound, SFTPPermissionDenied, SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:
            # In the other order the link would have to be where the target is: that cannot go wrong if it is taken.
            if await self.exists(path, follow_links=False) or not await self.exists(target, follow_links=False):
                raise
            link_first = await self._symlink(holds, raw, not self._link_first_guess)
        self._link_first = await self._prove(holds, raw, link_first)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _with_reason(self, error: SFTPError, path: str, reason: Callable[[Attributes], str | None]) -> SFTPError:
        """Return the error of a change; "failure", without a word from the server, gets a reason if one can be seen.

        Version 3 has no status for a name that is taken, nor for a folder that is not empty.

        Args:
            error: The refusal.
            path: What is looked at; of a link, the link itself.
            reason: Says why from what is there; ``None``: that is not why.
        """
        if type(error) is not SFTPError or not str(error).endswith(str(Status(packets.FAILURE))):
            return error
        try:
            why = reason(await self.stat(path, follow_links=False))
        except SFTPError:
            return error
        return error if why is None else SFTPError(f"{error}; {why}", host=error.host, path=error.path)

    async def _set(self, path: PathLike, action: str, attributes: bytes) -> None:
        raw = remote_bytes(path)

        def ask(session: Session, request: Command) -> None:
            session.protocol.set_path_attributes(raw, attributes, request.answered, request)

        await self._run(self._command(ask, action, os.fspath(path)))

    async def _one_name(
        self, ask: Callable[[Session, Request[tuple[Name, ...]]], None], action: str, path: PathLike
    ) -> str:
        names = await self._twice(lambda: Request(ask, action, os.fspath(path), self._connections.release))
        if len(names) != 1:
            where = self.options.address
            raise SFTPError(f"{where}: answered with {len(names)} names where one was due", host=where)
        return remote_text(names[0].filename)

    async def _symlink(self, target: bytes, path: bytes, link_first: bool | None) -> bool:
        def ask(session: Session, request: Command) -> None:
            self._link_first_guess = _DRAFT_ORDER in session.server_version
            swap = self._link_first_guess if link_first is None else link_first
            first, second = (path, target) if swap else (target, path)
            session.protocol.symlink(first, second, request.answered, request)

        try:
            await self._run(self._command(ask, "make the link", remote_text(path)))
        except SFTPError as error:
            raise await self._with_reason(error, remote_text(path), name_taken) from None
        return self._link_first_guess if link_first is None else link_first

    async def _prove(self, target: bytes, path: bytes, link_first: bool) -> bool | None:
        """See that the link is where it was meant to be; elsewhere, undo it and use the other order from then on."""
        link, holds = remote_text(path), remote_text(target)
        try:
            await self.readlink(link)
            return link_first
        except SFTPConnectionLost:
            raise
        except SFTPFileNotFound:
            pass
        except SFTPError:  # it is there, and may not be read
            return None
        if await self.readlink(holds) != link:
            where = self.options.address
            raise SFTPError(f"{where}: the server reported a link at {link} and made none", host=where, path=link)

        def ask(session: Session, request: Command) -> None:
            session.protocol.remove(target, request.answered, request)

        await self._run(self._command(ask, "remove", holds))
        return await self._symlink(target, path, not link_first)


def name_taken(there: Attributes) -> str:
    """Return what is said where a name would have to be free."""
    what = {"file": "a file", "dir": "a folder", "link": "a link"}.get(there.file_type or "", "something")
    return f"{what} of that name is there"


def whole_seconds(time: float) -> int:
    """Return a time that a caller gives as the protocol has it.

    Raises:
        ValueError: It is before 1970 or after 2106.
    """
    if not 0 <= time <= packets.TIME_MAX:
        raise ValueError(f"the time {time!r}: seconds since 1970 from 0 to {packets.TIME_MAX} are allowed")
    return int(time)
