"""Files compared by digests that the server makes of its own: nothing of them is sent.

Source: draft-ietf-secsh-filexfer-extensions-00, section 3, which ProFTPD, Apache MINA and others have taken up.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.packets import BAD_MESSAGE, UNSUPPORTED, Malformed, Status, parse_string
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.request import Request
from asyncworker.sftp.session import Session

__all__ = ["same_digests"]

#: In the order of preference. Files can be made that have one MD5 or SHA-1 and other contents.
_DIGESTS = ("sha256", "sha512", "sha384")
#: A server says nothing while it reads so much: that has to take less than any time limit.
_RANGE_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024


async def same_digests(pool: SFTPPool, remote: str, fd: int, size_bytes: int) -> bool | None:
    """Compare a file of the server with an open one, range by range, up to the first difference.

    Args:
        pool: The connections; a server that makes no digests is asked once.
        remote: The path on the server.
        fd: The local file.
        size_bytes: The size of both; the last range goes to the end of each, wherever that is.

    Returns:
        ``None``: the server does not say.

    Raises:
        SFTPConnectError: The server cannot be reached.
        OSError: The local file cannot be read.
    """
    if not pool._makes_digests:
        return None
    for offset in range(0, size_bytes, _RANGE_BYTES):
        length = _RANGE_BYTES if offset + _RANGE_BYTES < size_bytes else 0
        told = await _digest(pool, remote, offset, length)
        if told is None:
            return None
        name, digest = told
        if digest != await asyncio.to_thread(_local_digest, fd, name, offset, length):
            return False
    return True if size_bytes else None


async def _digest(pool: SFTPPool, remote: str, offset: int, length: int) -> tuple[str, bytes] | None:
    raw = remote_bytes(remote)

    def ask(session: Session, request: Request[bytes]) -> None:
        def take(answer: bytes | Status) -> None:
            unknown = isinstance(answer, Status) and answer.code in (UNSUPPORTED, BAD_MESSAGE)
            pool._makes_digests &= not unknown
            request.answered(b"" if unknown else answer)

        session.protocol.check_file(raw, ",".join(_DIGESTS).encode(), offset, length, take, request)

    try:
        reply = await pool._run(Request(ask, "check", remote, pool._connections.release))
    except SFTPConnectError:
        raise
    except SFTPConnectionLost:  # perhaps lost by this very request: it is not made again
        pool._makes_digests = False
        return None
    except SFTPError:
        return None
    return _parsed(reply)


def _parsed(reply: bytes) -> tuple[str, bytes] | None:
    """Return name and value of a digest; ``None`` where the reply is not of the draft's form.

    There it begins with the name of the extension, which ProFTPD leaves out.
    """
    try:
        name, place = parse_string(reply, 0, len(reply))
        if name == b"check-file":
            name, place = parse_string(reply, place, len(reply))
    except Malformed:
        return None
    digest = reply[place:]
    for known in _DIGESTS:
        if name == known.encode() and len(digest) == hashlib.new(known).digest_size:
            return known, digest
    return None


def _local_digest(fd: int, name: str, offset: int, length: int) -> bytes:
    """Blocks: for a thread."""
    digest = hashlib.new(name)
    stop = offset + length if length else None
    while block := os.pread(fd, _BLOCK_BYTES if stop is None else min(_BLOCK_BYTES, stop - offset), offset):
        digest.update(block)
        offset += len(block)
    return digest.digest()
