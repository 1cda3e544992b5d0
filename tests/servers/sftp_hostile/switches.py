"""The ways in which the server misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from tests.servers.sftp_hostile.attributes import Claim, Stat
from tests.servers.sftp_hostile.requests import Request

__all__ = ["EXTENSIONS", "Switches"]

#: Extensions and their versions, as OpenSSH announces them.
EXTENSIONS = {
    "posix-rename": b"1",
    "statvfs": b"2",
    "fstatvfs": b"2",
    "hardlink": b"1",
    "fsync": b"1",
    "lsetstat": b"1",
    "limits": b"1",
    "copy-data": b"1",
}


@dataclass
class Switches:
    """All off by default: a server that behaves. Paths are bytes; kinds are those of `Request`.

    Attributes:
        without: Extensions that are not offered, and unsupported.
        refuse: Kind to the status code that each such request ends with; nothing is done.
        refuse_if: Takes a request; returns its status code, or ``None`` to go on.
        lie: Kinds that are answered by "ok" without being done: SETSTAT, REMOVE, fsync, ...
        deny: Paths where all requests end with "permission denied": the folder cannot be opened, what is below cannot
            even be seen; STAT and LSTAT of the path itself are answered.
        claim: Bends attributes in answers to STAT, LSTAT, FSTAT and READDIR; see `claim_size` and its neighbours.
        phantoms: Path to what STAT and LSTAT tell of it where nothing has that path, as if they remembered it.
        names_per_answer: Most names that one READDIR returns.
        empty_answers: READDIR answers by zero names so many times, for each handle, before it goes on.
        repeat: READDIR gives the same names again and again, and never ends.
        bottomless: Every folder contains a folder ``deeper``.
        dots: READDIR names ``.`` and ``..``, too.
        read_bytes: Most bytes that one READ returns.
        eof_at: Path to the offset where READ finds the end, early or late; late bytes are zeros.
        grows: Path to bytes that are appended at every READ.
        one_time_reads: A file leaves the tree when it is opened for reading, and each of its bytes is given once.
        ignores_exclusive: OPEN opens a file that must not exist, and empties it as little as any other.
        taken_at_close: Paths below which a file that was written leaves the tree at its CLOSE, into `Hostile.taken`.
        sequential_writes: A WRITE anywhere but at the end of its file is a failure.
        write_bytes: Most bytes that one WRITE may have; more is a failure.
        quota_bytes: Most bytes in all files together; a WRITE beyond is a failure.
        most_handles: Most handles open at once in a session; beyond, OPEN and OPENDIR are failures.
        limits: What ``limits`` says: bytes of a packet, a READ, a WRITE; handles.
        statvfs: Block size, fragment size, blocks, free blocks, blocks free to users.
        delay_s: Answers wait that long; by kind, where it is a mapping.
        reverse: Answers to what came together are sent in the opposite order.
        hang: Kinds that are never answered; ``True``: none is.
        hang_if: Takes a request; whether it is never answered.
        hang_after: Requests of a session beyond that number are never answered.
        hang_up_above: Requests in the air, in one session, above which its connection is cut.
        hang_up_after: Requests of a session after which its connection is cut.
        hang_up_if: Takes a request; whether the connection is cut in place of an answer.
        bad_sessions: Only so many sessions hang or hang up, the first ones; ``None``: all.
        idle_s: Connections that bring no request for so long are cut.
        most_sessions: Sessions at once in one connection; another one is refused.
        most_connections: Connections at once; another one is cut before it can log in.
    """

    without: Collection[str] = ()
    refuse: Mapping[str, int] = field(default_factory=dict)
    refuse_if: Callable[[Request], int | None] = lambda _: None
    lie: Collection[str] = ()
    deny: Collection[bytes] = ()
    claim: Claim = lambda kind, path, stat: stat

    phantoms: Mapping[bytes, Stat] = field(default_factory=dict)

    names_per_answer: int = 100
    empty_answers: int = 0
    repeat: bool = False
    bottomless: bool = False
    dots: bool = False

    read_bytes: int = 262_144
    eof_at: Mapping[bytes, int] = field(default_factory=dict)
    grows: Mapping[bytes, bytes] = field(default_factory=dict)
    one_time_reads: bool = False

    ignores_exclusive: bool = False
    taken_at_close: Collection[bytes] = ()
    sequential_writes: bool = False
    write_bytes: int = 262_144
    quota_bytes: int | None = None
    most_handles: int | None = None

    limits: tuple[int, int, int, int] = (262_144, 261_120, 261_120, 1024)
    statvfs: tuple[int, int, int, int, int] = (4096, 4096, 1 << 28, 1 << 27, 1 << 27)

    delay_s: float | Mapping[str, float] = 0.0
    reverse: bool = False
    hang: Collection[str] | bool = ()
    hang_if: Callable[[Request], bool] = lambda _: False
    hang_after: int | None = None
    hang_up_above: int | None = None
    hang_up_after: int | None = None
    hang_up_if: Callable[[Request], bool] = lambda _: False
    bad_sessions: int | None = None
    idle_s: float | None = None
    most_sessions: int | None = None
    most_connections: int | None = None

    def offered(self) -> dict[str, bytes]:
        """Extensions that VERSION names."""
        return {name: version for name, version in EXTENSIONS.items() if name not in self.without}

    def delay_of(self, kind: str) -> float:
        """Seconds that an answer of that kind waits."""
        return self.delay_s.get(kind, 0.0) if isinstance(self.delay_s, Mapping) else self.delay_s
