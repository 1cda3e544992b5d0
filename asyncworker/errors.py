"""Every error that asyncworker raises on purpose, one tree.

::

    AsyncWorkerError
    ├── SettingsError            a setting or an installation that cannot work
    ├── EmbeddedServerError      the embedded broker could not be found or started
    ├── LoopError                the loop thread cannot take the call
    ├── TooManyDeliveries        a task was begun again and again, and each time its worker died
    ├── TaskCancelled            a task's coroutine ended in a CancelledError that nobody outside asked for
    ├── ResourceError            a resource could not be made, or cannot be had here
    │   └── ResourceCycle        resources need each other
    ├── PoolError                a pool of connections cannot give one
    │   ├── PoolTimeout          none came free in time: names who holds them
    │   ├── PoolConnectError     none lives, and none could be made
    │   └── PoolClosed           the pool is being closed
    ├── LimitError               a limit cannot be used
    │   ├── LimitTimeout         no permit came free in time: names who holds them
    │   └── LimitLost            a permit of the cluster could not be renewed in time
    ├── SourceError              the source of a fan-out is wrong, or raised while it was read
    │   └── ArgumentError            its task cannot be called with the arguments: names them, and those that it takes
    ├── ItemError                an item failed in another process: what is known of its exception
    │   ├── ItemTimeout          an item passed its own time limit
    │   └── WorkerDied           an item's process died each time it ran, twice with no other item in flight
    ├── ItemErrors               several items failed: an ExceptionGroup with the counts and the first ones
    ├── RunError
    │   ├── RunNotFound          no run of that id in the store
    │   │   └── RunExpired           it ended, and was deleted when its retention was over
    │   ├── RunTakenOver         another process holds this run now; this one's writes are refused
    │   ├── RunHeld              a process that is alive runs it: wait for it, cancel it, or take it by force
    │   ├── RunChanged           the source, the fixed arguments or the cut are not those of the checkpoint
    │   ├── RunCancelled         the run was cancelled
    │   ├── RunDrained           the run stopped early for the worker to end; another attempt goes on
    │   └── RunTimeout           the run passed its total time limit
    ├── StateError               what a task wants to remember cannot be: its key, its value, or no task runs here
    │   ├── StateTooLarge        a task's state would pass the limit
    │   └── StateTakenOver       another execution of the task has opened its state since
    ├── StoreError
    │   ├── StoreVersionError    the tables are of another version
    │   ├── PayloadError         a payload cannot be written or read, or is not what was written
    │   └── CheckpointCorrupt    a stored row cannot be what was written
    ├── HTTPError                carries the method and the URL
    │   ├── HTTPConnectError     no connection: the request was never sent
    │   │   └── HTTPCertificateError the server's certificate is not one to trust
    │   ├── HTTPConnectionLost   the connection ended before the answer did
    │   ├── HTTPTimeout          no whole answer in time
    │   ├── HTTPStatusError      the answer is an error; carries the status, and how long the server asks to wait
    │   ├── HTTPTooLarge         the answer is larger than was allowed
    │   └── HTTPPageError        an answer is not a page of the list, or leads nowhere
    ├── SQLError                 carries the table
    │   ├── SQLConnectError      no connection to the database, or it ended
    │   ├── SQLConflict          another transaction was in the way; the whole of this one may be tried again
    │   └── SQLRowsRefused       the database does not take the rows, or they cannot be rows
    └── SFTPError                carries the host and, where there is one, the remote path
        ├── SFTPConnectError     no session: network, handshake, too many connections
        │   ├── SFTPHostKeyError     the host key is unknown or is not the known one
        │   └── SFTPAuthError        the server refused the login
        ├── SFTPConnectionLost   the session ended with requests in flight
        │   └── SFTPTimeout          the server sent nothing for too long while requests were open
        ├── SFTPReadInterrupted  the same while a file was read that cannot be read again
        ├── SFTPProtocolError    the server sent what the protocol does not allow
        ├── SFTPFileNotFound     no such file
        ├── SFTPPermissionDenied the server refuses access
        ├── SFTPNoSpace          the server's disk cannot hold what is to be sent
        ├── SFTPTypeUnknown      it does not say whether something is a file or a folder
        ├── SFTPFileChanged      the bytes received do not match the size that was announced
        ├── SFTPDeleteRefused    a mirror would delete more than it may
        └── SFTPNameError        a file name that is not safe to write locally
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ArgumentError",
    "AsyncWorkerError",
    "CheckpointCorrupt",
    "EmbeddedServerError",
    "HTTPCertificateError",
    "HTTPConnectError",
    "HTTPConnectionLost",
    "HTTPError",
    "HTTPPageError",
    "HTTPTooLarge",
    "HTTPStatusError",
    "HTTPTimeout",
    "ItemError",
    "ItemErrors",
    "ItemTimeout",
    "LimitError",
    "LimitLost",
    "LimitTimeout",
    "LoopError",
    "PayloadError",
    "PoolClosed",
    "PoolConnectError",
    "PoolError",
    "PoolTimeout",
    "ResourceCycle",
    "ResourceError",
    "RunCancelled",
    "RunDrained",
    "RunChanged",
    "RunError",
    "RunExpired",
    "RunHeld",
    "RunNotFound",
    "RunTakenOver",
    "RunTimeout",
    "SFTPAuthError",
    "SFTPConnectError",
    "SFTPConnectionLost",
    "SFTPDeleteRefused",
    "SFTPError",
    "SFTPFileChanged",
    "SFTPFileNotFound",
    "SFTPHostKeyError",
    "SFTPNameError",
    "SFTPNoSpace",
    "SFTPPermissionDenied",
    "SFTPProtocolError",
    "SFTPReadInterrupted",
    "SFTPTimeout",
    "SFTPTypeUnknown",
    "SQLConflict",
    "SQLConnectError",
    "SQLError",
    "SQLRowsRefused",
    "SettingsError",
    "SourceError",
    "StateError",
    "StateTakenOver",
    "StateTooLarge",
    "StoreError",
    "StoreVersionError",
    "TaskCancelled",
    "TooManyDeliveries",
    "WorkerDied",
]


class AsyncWorkerError(Exception):
    """The root of asyncworker's own errors."""


class SettingsError(AsyncWorkerError):
    """A setting or an installation that cannot work."""


class EmbeddedServerError(AsyncWorkerError):
    """The embedded broker could not be found or started."""


class LoopError(AsyncWorkerError):
    """The loop thread cannot take the call."""


class TooManyDeliveries(AsyncWorkerError):
    """A task was begun again and again, and each time its worker died."""


class TaskCancelled(AsyncWorkerError):
    """A task's coroutine ended in a CancelledError that nobody outside asked for."""


class ResourceError(AsyncWorkerError):
    """A resource could not be made, or cannot be had here."""


class ResourceCycle(ResourceError):
    """Resources need each other; the message names them in order."""


class PoolError(AsyncWorkerError):
    """A pool of connections cannot give one."""


class PoolTimeout(PoolError, TimeoutError):
    """No connection came free in time; the message names who holds them."""


class PoolConnectError(PoolError):
    """No connection lives, and none could be made."""


class PoolClosed(PoolError):
    """The pool is being closed."""


class LimitError(AsyncWorkerError):
    """A limit cannot be used."""


class LimitTimeout(LimitError, TimeoutError):
    """No permit came free in time; the message names who holds them."""


class LimitLost(LimitError):
    """A permit of the cluster could not be renewed in time; another may have its place."""


class SourceError(AsyncWorkerError):
    """The source of a fan-out is wrong, or raised while it was read."""


class ArgumentError(SourceError, TypeError):
    """A task cannot be called with the arguments of a fan-out; a ``TypeError``, as what ``delay`` raises.

    Attributes:
        task: The task's name.
        parameters: The names of the arguments that it takes, in its order.
        unknown: Names that were given and that it does not take.
        missing: Names that it needs and that were not given.
    """

    def __init__(
        self,
        message: str,
        task: str = "",
        parameters: Sequence[str] = (),
        unknown: Sequence[str] = (),
        missing: Sequence[str] = (),
    ) -> None:
        # All of it: a result backend rebuilds an exception from its arguments.
        super().__init__(message, task, list(parameters), list(unknown), list(missing))
        self.task = task
        self.parameters = tuple(parameters)
        self.unknown = tuple(unknown)
        self.missing = tuple(missing)

    def __str__(self) -> str:
        return str(self.args[0])


class ItemError(AsyncWorkerError):
    """An item failed in another process, or with what says more than that: the message holds its exception's type and
    text."""


class ItemTimeout(ItemError, TimeoutError):
    """An item passed its own time limit."""


class WorkerDied(ItemError):
    """An item's process died each time it ran, once with no other item in flight."""


class ItemErrors(AsyncWorkerError, ExceptionGroup[Exception]):
    """Several items failed: the message counts them, the group holds the first ones.

    A result backend that speaks JSON rebuilds an exception from its ``args``: these hold the texts of the members, and
    what is only a text becomes an ``ItemError``.
    """

    def __new__(cls, message: str, exceptions: str | Sequence[Exception | str]) -> ItemErrors:
        """Make the group; texts among the exceptions become an ``ItemError`` of that text."""
        given: Sequence[Exception | str] = [exceptions] if isinstance(exceptions, str) else exceptions
        members = [each if isinstance(each, Exception) else ItemError(str(each)) for each in given]
        return super().__new__(cls, str(message), members or [ItemError("nothing is known of them")])

    def __init__(self, message: str, exceptions: str | Sequence[Exception | str]) -> None:
        super().__init__(message, self.exceptions)
        known = (f"{type(each).__qualname__}: " if not isinstance(each, ItemError) else "" for each in self.exceptions)
        self.args = (self.message, [f"{kind}{each}" for kind, each in zip(known, self.exceptions, strict=True)])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, list(self.exceptions))

    def derive(self, excs: Sequence[Exception], /) -> ItemErrors:  # type: ignore[override]
        """Make a part of this group, for ``split`` and ``except*``."""
        return ItemErrors(self.message, excs)


class RunError(AsyncWorkerError):
    """Something about a whole run."""


class RunNotFound(RunError):
    """No run of that id in the store."""


class RunExpired(RunNotFound):
    """The run has ended, and was deleted with its results when its retention was over."""


class RunTakenOver(RunError):
    """Another process holds this run now; this one's writes are refused."""


class RunHeld(RunError):
    """A process that is alive runs it: wait for it, cancel it, or take it by force."""


class RunChanged(RunError):
    """The source, the fixed arguments or the cut into partitions are not those of the checkpoint."""


class RunCancelled(RunError):
    """The run was cancelled."""


class RunDrained(RunError):
    """The run stopped early for the worker to end; another attempt goes on."""


class RunTimeout(RunError):
    """The run passed its total time limit."""


class StateError(AsyncWorkerError):
    """A task's state cannot be stored: bad key, bad value, or no task runs here."""


class StateTooLarge(StateError):
    """A task's state would pass the limit."""


class StateTakenOver(StateError):
    """Another execution of the task has opened its state since."""


class StoreError(AsyncWorkerError):
    """The store cannot be used."""


class StoreVersionError(StoreError):
    """The store's tables are of another version."""


class PayloadError(StoreError):
    """A payload cannot be written or read, or is not what was written."""


class CheckpointCorrupt(StoreError):
    """A stored row cannot be what was written."""


class HTTPError(AsyncWorkerError):
    """An HTTP request failed.

    Attributes:
        method: GET, POST, ...
        url: Where it went, without password and query.
    """

    def __init__(self, message: str, *, method: str = "", url: str = "") -> None:
        super().__init__(message)
        self.method = method
        self.url = url


class HTTPConnectError(HTTPError):
    """No connection could be made; the request was never sent."""


class HTTPCertificateError(HTTPConnectError):
    """The server's certificate is not one to trust."""


class HTTPConnectionLost(HTTPError):
    """The connection ended before the answer did."""


class HTTPTimeout(HTTPError, TimeoutError):
    """No whole answer came in time."""


class HTTPStatusError(HTTPError):
    """The answer is an error.

    Attributes:
        status: 400 or above.
        retry_after_s: How long the server asks to wait; ``None`` where it does not say.
    """

    def __init__(
        self, message: str, *, method: str = "", url: str = "", status: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, method=method, url=url)
        self.status = status
        self.retry_after_s = retry_after_s


class HTTPTooLarge(HTTPError):
    """The answer is larger than was allowed."""


class HTTPPageError(HTTPError):
    """An answer is not a page of the list, or leads nowhere."""


class SQLError(AsyncWorkerError):
    """A database operation failed.

    Attributes:
        table: The table; empty where no single one was meant.
    """

    def __init__(self, message: str, *, table: str = "") -> None:
        super().__init__(message)
        self.table = table


class SQLConnectError(SQLError):
    """There is no connection to the database, or it ended."""


class SQLConflict(SQLError):
    """Another transaction was in the way (a deadlock, a lock); the whole of this one may be tried again."""


class SQLRowsRefused(SQLError):
    """The database does not take the rows, or they cannot be rows of that table."""


class SFTPError(AsyncWorkerError):
    """An SFTP operation failed.

    Attributes:
        host: The server, as ``host:port``; empty where no connection was meant.
        path: The remote path; ``None`` where the operation has none.
    """

    def __init__(self, message: str, *, host: str = "", path: str | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.path = path


class SFTPConnectError(SFTPError):
    """No session could be opened: network, handshake, or too many connections."""


class SFTPHostKeyError(SFTPConnectError):
    """The host key is unknown, or is not the known one.

    Attributes:
        unknown: Whether no key of that host is known, so that this one contradicts none.
        fingerprint: Kind and fingerprint of the key that the server has; empty where that is not told.
        key: The key, as in a file of known hosts.
        name: The host's name in such a file.
        known_hosts: The file that it belongs into.
    """

    unknown: bool = False
    fingerprint: str = ""
    key: str = ""
    name: str = ""
    known_hosts: str = ""


class SFTPAuthError(SFTPConnectError):
    """The server refused the login.

    Attributes:
        takes_password: Whether the server would take a password, and was given none.
        encrypted_key: File of a private key that needs a passphrase; ``None``: none is missing.
    """

    takes_password: bool = False
    encrypted_key: str | None = None


class SFTPConnectionLost(SFTPError):
    """The session ended with requests in flight.

    Attributes:
        eased: Whether the pool has reduced its load because of it, so that trying again is worth more than one try.
    """

    eased: bool = False


class SFTPTimeout(SFTPConnectionLost):
    """The server sent nothing for ``timeout_s`` while requests were open; the connection was given up."""


class SFTPReadInterrupted(SFTPError):
    """The connection was lost while a file was read that is gone now, or may be read only once."""


class SFTPProtocolError(SFTPError):
    """The server sent what the protocol does not allow."""


class SFTPFileNotFound(SFTPError):
    """No such file on the server."""


class SFTPPermissionDenied(SFTPError):
    """The server refuses access."""


class SFTPNoSpace(SFTPError):
    """The server's disk cannot hold what is to be sent."""


class SFTPFileChanged(SFTPError):
    """A file is not as long as was announced: it changes while it is moved, or the server's sizes are wrong."""


class SFTPTypeUnknown(SFTPError):
    """The server does not say whether something is a file or a folder."""


class SFTPDeleteRefused(SFTPError):
    """A mirror would delete more than it may; nothing was deleted."""


class SFTPNameError(SFTPError):
    """A file name that is not safe to write locally.

    Attributes:
        name: The name, where a listing had it; bytes that are not UTF-8 are surrogate escapes in it.
        is_dir: Whether it is that of a folder.
    """

    name: str | None = None
    is_dir: bool = False
