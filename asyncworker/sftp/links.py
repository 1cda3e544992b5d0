"""Symbolic links that are moved as links: only those that stay within the tree that is moved.

As rsync's ``--safe-links``, but a link that is refused is an error in the report: a target must be relative, and have
its ``..`` at the beginning, no more of them than there are folders above the link. So, whatever other links are on the
way, nothing that follows it leaves the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from functools import partial

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp import packets
from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.localfile import check_replaceable
from asyncworker.sftp.names import check_name, remote_bytes, remote_text
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.packets import Status
from asyncworker.sftp.placing import Outcome, ProcedureJob, Send, Steps, log_kept
from asyncworker.sftp.protocol import SFTPProtocol
from asyncworker.sftp.temporary_names import aside_name, local_temporary_name, temporary_name
from asyncworker.sftp.transfer import Transfer

__all__ = ["check_target", "is_same_link", "make_local_link", "upload_link"]


def check_target(target: str, path: str, host: str) -> None:
    """Refuse a link that leads out of the tree, or whose target is not plain.

    Args:
        target: What the link holds.
        path: The link, relative to the root of the tree.
        host: The server, for the message.

    Raises:
        SFTPNameError: It is refused.
    """
    fault = _fault(target, path.count("/"))
    if fault:
        raise SFTPNameError(f"{host}: refused the link {path!a} to {target[:200]!a}: {fault}", host=host, path=path)


def _fault(target: str, depth: int) -> str:
    if not target:
        return "it has no target"
    if target.startswith("/"):
        return "its target is absolute"
    names = [name for name in target.rstrip("/").split("/") if name not in ("", ".")]
    ups = 0
    while ups < len(names) and names[ups] == "..":
        ups += 1
    if ups > depth:
        return "it leads out of the folder that is moved"
    if ".." in names[ups:]:
        return "a '..' after a name may lead out of the folder that is moved"
    for name in names[ups:]:
        try:
            check_name(name)
        except SFTPNameError:
            return "its target has a name in it that is not safe"
    return ""


def make_local_link(folder: OpenFolder, name: str, target: str, mtime: int | None, goal: str) -> None:
    """Make a link in an open folder, in the place of a file or a link that is there. Blocks: for a thread.

    Raises:
        OSError: It cannot be made; names ``goal``.
    """
    temporary = local_temporary_name(name)
    try:
        check_replaceable(name, folder.fd)
        os.symlink(target, temporary, dir_fd=folder.fd)
        try:
            if mtime is not None:
                with contextlib.suppress(OSError, NotImplementedError):
                    os.utime(temporary, (mtime, mtime), dir_fd=folder.fd, follow_symlinks=False)
            os.replace(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        except OSError:
            os.unlink(temporary, dir_fd=folder.fd)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, goal) from None


async def upload_link(pool: Namespace, local: str, remote: str, path: str, mtime: int | None) -> Transfer:
    """Make a link on the server that holds what the local one does, in the place of a file or a link that is there.

    Args:
        pool: The connections.
        local: The local link.
        remote: Its path on the server.
        path: Its path, relative to the root of the tree.
        mtime: Its time of change, for the result: no server of version 3 sets that of a link.

    Raises:
        SFTPNameError: It leads out of the tree.
        SFTPError: A refusal by the server, or a lost connection.
        OSError: It cannot be read.
    """
    target = await asyncio.to_thread(os.readlink, local)
    check_target(target, path, pool.options.address)
    try:
        await pool.symlink(target, remote)
    except (SFTPConnectionLost, SFTPConnectError):
        raise
    except SFTPError:
        try:
            there = await pool.stat(remote, follow_links=False)
        except SFTPFileNotFound:
            there = None
        if there is None or (there.is_dir and not await _is_link(pool, remote)):
            raise
        await _replace(pool, target, remote)
    return Transfer(remote, local, 0, mtime)


async def _is_link(pool: Namespace, remote: str) -> bool:
    try:
        await pool.readlink(remote)
    except (SFTPConnectionLost, SFTPConnectError):
        raise
    except SFTPError:
        return False
    return True


async def _replace(pool: Namespace, target: str, remote: str) -> None:
    """Make a link in the place of a file or a link, which comes back if that fails.

    All on one session: processes of ProFTPD remember for seconds what they have seen.
    """
    path = remote_bytes(remote)
    if pool._link_first is None:  # the order of its arguments has to be known before anything is removed
        folder, slash, name = path.rpartition(b"/")
        proof = remote_text(folder + slash + temporary_name(name))
        await pool.symlink(target, proof)
        await pool.remove(proof)
    link_first = pool._link_first_guess if pool._link_first is None else pool._link_first

    def steps(protocol: SFTPProtocol) -> Steps:
        def make(holds: bytes) -> Send:
            return partial(protocol.symlink, *((path, holds) if link_first else (holds, path)))

        return _replacing(protocol, path, remote_bytes(target), make)

    outcome = await pool._run(ProcedureJob(steps, pool._connections.release))
    if outcome.status.code != packets.OK:
        raise outcome.error("make the link", pool.options.address, remote)
    if outcome.kept:
        log_kept(pool.options.address, path, outcome.kept)


def _replacing(protocol: SFTPProtocol, path: bytes, target: bytes, make: Callable[[bytes], Send]) -> Steps:
    """Return the steps. A link is never renamed: ProFTPD renames the file that it leads to."""
    held = yield partial(protocol.readlink, path)  # LSTAT does not tell: that of ProFTPD follows links
    if not isinstance(held, Status):
        removed = yield partial(protocol.remove, path)
        if removed.code != packets.OK:
            return Outcome(removed)
        made = yield make(target)
        if made.code != packets.OK:
            yield make(held[0].filename)
        return Outcome(made)
    folder, slash, name = path.rpartition(b"/")
    aside = folder + slash + aside_name(name)
    moved = yield partial(protocol.rename_plain, path, aside)
    if moved.code != packets.OK:
        return Outcome(moved)
    made = yield make(target)
    if made.code == packets.OK:
        done = yield partial(protocol.remove, aside)
    else:
        done = yield partial(protocol.rename_plain, aside, path)
    return Outcome(made, () if done.code == packets.OK else (aside,))


async def is_same_link(pool: Namespace, local: str, remote: str) -> bool:
    """Return whether a local link and one of the server hold the same; ``False`` where that cannot be said.

    Raises:
        SFTPConnectionLost: The connection is lost.
        SFTPConnectError: There is none.
    """
    try:
        return await asyncio.to_thread(os.readlink, local) == await pool.readlink(remote)
    except (SFTPConnectionLost, SFTPConnectError):
        raise
    except (SFTPError, OSError):
        return False
