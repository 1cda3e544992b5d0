"""Where a file ends that is fetched, and what is said of one that ends elsewhere, or cannot be read again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from asyncworker.errors import SFTPConnectionLost, SFTPFileNotFound, SFTPReadInterrupted

__all__ = ["READ_TO", "ReadTo", "gone_since", "other_size", "truthful"]

T = TypeVar("T")

#: Where a file ends: at the announced size, and a file of another size is refused; where the server says EOF, whatever
#: size it announced; at the size that it had when it was opened, however it grows.
ReadTo = Literal["size", "eof", "snapshot"]
READ_TO = ("size", "eof", "snapshot")


def other_size(announced: int | None, what: str) -> str:
    """Text of an error: a file is not as long as was announced."""
    said = "no size was announced" if announced is None else f"{announced} bytes were announced"
    return (
        f"{said}, {what}: it is being changed, or the server's sizes are wrong;"
        " read_to='snapshot' or 'eof' fetches such files"
    )


def gone_since(error: SFTPFileNotFound) -> SFTPReadInterrupted:
    """The error of a file whose connection was lost, and which is not there at the next try."""
    return SFTPReadInterrupted(
        f"{error.host}: {error.path}: the connection was lost while it was read, and now there is no such file:"
        " somebody has removed it, or the server hands it out only once",
        host=error.host,
        path=error.path,
    )


def truthful(run: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """Make tries of a file that say so if it is gone after the connection of an earlier one was lost."""
    lost = False

    async def tried() -> T:
        nonlocal lost
        try:
            return await run()
        except SFTPConnectionLost:
            lost = True
            raise
        except SFTPFileNotFound as error:
            if not lost:
                raise
            raise gone_since(error) from None

    return tried
