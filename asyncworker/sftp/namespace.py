"""Namespace operations of a pool: statvfs, list, walk, rename, remove, mkdir."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from functools import partial

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPPermissionDenied
from asyncworker.sftp import packets
from asyncworker.sftp.calls import PathLike, pause
from asyncworker.sftp.listing import BadNames, Entry, Listing
from asyncworker.sftp.metadata import Metadata, name_taken
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.packets import Attributes, FileSystem
from asyncworker.sftp.placing import Placing, ProcedureJob, Steps, log_kept
from asyncworker.sftp.protocol import SFTPProtocol
from asyncworker.sftp.request import Command, Request
from asyncworker.sftp.session import Session
from asyncworker.sftp.walking import Walk

__all__ = ["Namespace"]

#: What servers give a folder by themselves; only less than that needs a second look.
_USUAL_MODE = 0o755


class Namespace(Metadata):
    """The part of a pool that moves no bytes of files.

    What only asks is tried a second time if its connection is lost. What changes something is not: whether the server
    has done it is not known then, and the error says so.
    """

    #: Whether the server has made a folder with the permissions that were asked for.
    _mkdir_keeps_mode = False

    async def statvfs(self, path: PathLike) -> FileSystem:
        """Return what the server says of the file system that a path is on: how large it is, and how much is free.

        Raises:
            SFTPFileNotFound: There is no such path.
            SFTPError: The server does not offer ``statvfs@openssh.com``, any other refusal, or no connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Request[FileSystem]) -> None:
            if session.protocol.tells_space:
                session.protocol.statvfs(raw, request.answered, request)
            else:
                where = self.options.address
                error = SFTPError(
                    f"{where}: the server does not say how much room there is: it does not offer statvfs@openssh.com",
                    host=where,
                    path=os.fspath(path),
                )
                asyncio.get_running_loop().call_soon(request.fail, error)

        return await self._twice(lambda: Request(ask, "statvfs", os.fspath(path), self._connections.release))

    async def list(
        self, path: PathLike, *, bad_names: BadNames = "raise", local_names: bool = True
    ) -> AsyncGenerator[Entry, None]:
        """Give out the entries of a folder while they arrive, without ``.`` and ``..``, in the server's order.

        Files that a transfer has not finished are among them; :attr:`Entry.is_unfinished` tells them.

        Args:
            path: The folder.
            bad_names: What to do with a name that is not safe to write locally; ``skip`` logs it, a callable is called.
            local_names: ``False`` gives those names out too, control characters and all, where nothing is to be written
                locally under them; only what cannot be a name in a folder of the server is bad then.

        Raises:
            SFTPFileNotFound: No such folder.
            SFTPNameError: A name is not safe.
            SFTPError: Any other refusal, or no connection.
        """
        text, raw = os.fspath(path), remote_bytes(path)
        losses = 0
        while True:
            begun = False
            listing = Listing(text, raw, self.options.address, self._connections, local_names)
            self._connections.submit(listing)
            try:
                async for entry in listing.entries(bad_names):
                    begun = True
                    yield entry
                return
            except SFTPConnectionLost as error:
                losses += not error.eased
                if begun or losses == 2:
                    raise
            finally:
                self._connections.withdraw(listing)
                listing.close()
            await pause()

    async def walk(
        self,
        path: PathLike,
        *,
        max_depth: int | None = None,
        enter: Callable[[Entry], bool] = lambda _: True,
        bad_names: BadNames = "raise",
        local_names: bool = True,
        on_error: Callable[[str, SFTPError], None] | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Give out all that is in a folder and below it, folders too, while it arrives. Links are not followed.

        Several folders are listed at the same time, so that the order is no particular one; a folder comes before what
        is in it.

        Args:
            path: The folder.
            max_depth: 0 stays in that folder; ``None``: no limit.
            enter: Whether to go into a folder.
            bad_names: As for :meth:`list`.
            local_names: As for :meth:`list`.
            on_error: Gets a folder that cannot be listed, or what may be one (SFTPTypeUnknown, which is given out
                all the same), and why, and the walk goes on; ``None``: it ends.

        Raises:
            SFTPError: As for :meth:`list`; or more than 2,048 folders in each other, whether there is an ``on_error``
                or not.
        """
        walk = Walk(
            lambda folder: self.list(folder, bad_names=bad_names, local_names=local_names),
            max_depth=max_depth,
            enter=enter,
            on_error=on_error,
            address=self.options.address,
        )
        entries = walk.entries(os.fspath(path))
        try:
            async for entry in entries:
                yield entry
        finally:
            await entries.aclose()

    async def rename(self, old: PathLike, new: PathLike, *, replace: bool = False) -> None:
        """Give a file or a folder another name.

        Args:
            old: Its path.
            new: Its new path.
            replace: Whether a file of that name is replaced: in one step where the server offers
                ``posix-rename@openssh.com``; elsewhere it is moved aside first, and is missing for a moment. It is
                moved back if the server refuses the new one; if that fails too, the error names where it is.

        Raises:
            SFTPFileNotFound: No such file, or no such folder to move it to.
            SFTPError: The name is taken, any other refusal, or a lost connection.
        """
        first, second = remote_bytes(old), remote_bytes(new)
        what = f"{os.fspath(old)} to {os.fspath(new)}"
        if replace:
            await self._replace(first, second, what)
            return

        def ask(session: Session, request: Command) -> None:
            session.protocol.rename_plain(first, second, request.answered, request)

        try:
            await self._run(self._command(ask, "rename", what))
        except SFTPError as error:
            raise await self._with_reason(error, os.fspath(new), name_taken) from None

    async def _replace(self, first: bytes, second: bytes, what: str) -> None:
        placing: Placing | None = None

        def make(protocol: SFTPProtocol) -> Steps:
            nonlocal placing
            placing = Placing(protocol, first, second)
            return placing.steps()

        def over() -> None:
            if placing is not None and placing.aside is not None:
                self._restore_remote(placing.aside, second)

        outcome = await self._run(ProcedureJob(make, self._connections.release, over))
        if outcome.status.code != packets.OK:
            raise outcome.error("rename", self.options.address, what)
        if outcome.kept:
            log_kept(self.options.address, second, outcome.kept)

    async def _place(self, part: bytes, remote: str, size: int, mtime: int | None = None) -> None:
        """Give a file of that size and time of change, which is whole, its name; twice if the connection is lost.

        Raises:
            SFTPError: The server refuses, or both connections were lost.
        """
        rename = partial(self.rename, remote_text(part), remote, replace=True)
        try:
            await rename()
        except SFTPConnectionLost:
            await pause()
            try:
                await rename()
            except SFTPConnectionLost:
                raise
            except SFTPError as error:
                if not await self._was_placed(error, part, remote, size, mtime):
                    raise

    async def _was_placed(self, error: SFTPError, part: bytes, remote: str, size: int, mtime: int | None) -> bool:
        """Return whether a second rename is refused because the first one was done, and its answer was lost."""
        try:
            # Some servers refuse before they look whether there is anything to rename.
            if not isinstance(error, SFTPFileNotFound) and await self.exists(remote_text(part), follow_links=False):
                return False
            found = await self.stat(remote)
        except SFTPError:
            return False
        return found.size_bytes == size and (mtime is None or found.mtime in (mtime, None))

    async def remove(self, path: PathLike, *, missing_ok: bool = False) -> None:
        """Remove a file or a link.

        Raises:
            SFTPFileNotFound: There is none, and ``missing_ok`` is not set.
            SFTPError: It is a folder, any other refusal, or a lost connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Command) -> None:
            session.protocol.remove(raw, request.answered, request)

        try:
            await self._run(self._command(ask, "remove", os.fspath(path)))
        except SFTPFileNotFound:
            if not missing_ok:
                raise
        except SFTPError as error:
            why = "it is a folder"
            raise await self._with_reason(error, os.fspath(path), lambda it: why if it.is_dir else None) from None

    async def rmdir(self, path: PathLike) -> None:
        """Remove an empty folder.

        Raises:
            SFTPFileNotFound: There is none.
            SFTPError: It is not empty, any other refusal, or a lost connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Command) -> None:
            session.protocol.rmdir(raw, request.answered, request)

        try:
            await self._run(self._command(ask, "remove the folder", os.fspath(path)))
        except SFTPError as error:

            def reason(there: Attributes) -> str:
                return "it may not be empty" if there.is_dir else "it is no folder"

            raise await self._with_reason(error, os.fspath(path), reason) from None

    async def mkdir(
        self, path: PathLike, *, mode: int | None = None, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """Make a folder.

        Args:
            path: Its path.
            mode: Its permissions, which the server's umask may lessen; ``None``: the server's usual ones.
            parents: Make the folders above it too where they are missing.
            exist_ok: A folder that is there already is well.

        Raises:
            SFTPFileNotFound: The folder above it is missing.
            SFTPError: The name is taken, any other refusal, or a lost connection.
        """
        text = os.fspath(path)
        missing = [text]
        while True:
            last = len(missing) == 1
            try:
                await self._mkdir(missing[-1], mode if last else None, exist_ok or not last)
            except SFTPFileNotFound:
                above = missing[-1].rstrip("/").rpartition("/")[0]
                if not parents or not above:
                    raise
                missing.append(above)
                continue
            missing.pop()
            if last:
                return
            parents = False  # what is above has just been made

    async def _mkdir(self, path: str, mode: int | None, exist_ok: bool) -> None:
        raw = remote_bytes(path)

        def ask(session: Session, request: Command) -> None:
            session.protocol.mkdir(raw, mode, request.answered, request)

        try:
            await self._run(self._command(ask, "make the folder", path))
        except (SFTPFileNotFound, SFTPConnectError):
            raise
        except SFTPError as error:
            # Version 3 has no status for a name that is taken: servers say "failure".
            if not exist_ok or not await self._is_folder(path):
                raise await self._with_reason(error, path, name_taken) from None
            return
        if mode is not None and _USUAL_MODE & ~mode and not self._mkdir_keeps_mode:
            await self._keep_mode(path, mode)

    async def _keep_mode(self, path: str, mode: int) -> None:
        """Take away what a server has allowed beyond the permissions that MKDIR named: some do not look at them."""
        with contextlib.suppress(SFTPFileNotFound, SFTPPermissionDenied):
            found = await self.stat(path, follow_links=False)
            if found.mode is None:
                return
            self._mkdir_keeps_mode = not found.mode & 0o777 & ~mode
            if not self._mkdir_keeps_mode:
                await self.chmod(path, mode)

    async def _told(self, path: str, *, follow_links: bool = True) -> Attributes:
        """STAT or LSTAT; where the server refuses to tell, nothing is told.

        Raises:
            SFTPFileNotFound: There is no such path.
            SFTPError: There is no connection.
        """
        try:
            return await self.stat(path, follow_links=follow_links)
        except (SFTPFileNotFound, SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:
            return Attributes()

    async def _is_folder(self, path: str, told: Attributes | None = None) -> bool | None:
        """Return whether a path leads to a folder, or can be listed as one; ``None`` if the server refuses to say.

        Args:
            path: The path.
            told: What STAT has said of it, if it was asked.
        """
        try:
            told = await self._told(path) if told is None else told
        except SFTPFileNotFound:
            return False
        return told.is_dir if told.file_type is not None else await self._opens_as_folder(path)

    async def _opens_as_folder(self, path: str) -> bool | None:
        entries = self.list(path, bad_names=lambda _: None)
        try:
            async for _ in entries:
                break
        except SFTPFileNotFound:
            return False
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:
            return None
        finally:
            await entries.aclose()
        return True
