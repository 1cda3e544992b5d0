"""The names of files that are not whole yet, here and on servers: one grammar, so that none is taken for another file.

::

    .STEM.awt1-MACHINE-PID-START-CREATED-SERIAL.CHECK.part     temporary: of one try of one process
    .STEM.awp1-GOAL-ORIGIN-SIZE-MTIME.CHECK.part               a part: a later run continues it
    .STEM.awp1-GOAL-ORIGIN-SIZE-MTIME-MACHINE-PID-START-SERIAL.CHECK.part       a part that one process writes
    .STEM.awo1-GOAL-MACHINE-PID-START-SERIAL.CHECK.part        aside: the file that another one is about to replace

All fields are lower-case hexadecimal. CHECK is a CRC-32 of what stands between the dots before it, so a name that only
looks similar is not ours; STEM is the beginning of the file's own name, for a reader, and not checked: some servers
normalize its characters. A temporary name says which process made it, so whether that process still runs can be
seen on the same machine. MACHINE covers the boot, the pid namespace and the host name: another value means that this
process cannot tell.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from zlib import crc32

__all__ = [
    "Aside",
    "Part",
    "Temporary",
    "aside_name",
    "claimed_part_name",
    "goal_digest",
    "is_of_this_process",
    "is_ours",
    "local_temporary_name",
    "owner_has_ended",
    "parse",
    "part_name",
    "stem_of",
    "temporary_name",
]

_SUFFIX = ".part"
#: So that a whole name stays below 143 bytes, the limit of encrypted home folders.
_STEM_BYTES = 60
_STEM_BYTES_CLAIMED = 30
_DIGEST_CHARS = 12
_TAIL = re.compile(r"\.(aw[top]1-[0-9a-f]+(?:-[0-9a-f]+){3,7})\.([0-9a-f]{8})\.part")
_serial = count()


@dataclass(frozen=True, slots=True)
class Temporary:
    """The fields of a temporary name.

    Attributes:
        machine: Boot, pid namespace and host name of its process, hashed.
        pid: Its process.
        start: When that process started, in its system's own unit: with ``pid``, no other process of a machine.
        created: When the name was made, seconds since 1970 by that machine's clock; ``None`` where that is not said.
    """

    machine: int
    pid: int
    start: int
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """The fields of a part's name.

    Attributes:
        goal: Digest of the name of the file that it becomes, as :func:`goal_digest` makes it.
        origin: Digest of where the bytes come from.
        size: Bytes of the whole file.
        mtime: When the file at its origin was last changed, in the writer's unit.
        owner: The process that writes it, or did so; ``None`` for a name without one.
    """

    goal: str
    origin: str
    size: int
    mtime: int
    owner: Temporary | None = None


@dataclass(frozen=True, slots=True)
class Aside:
    """The fields of the name of a file that was moved aside, to be replaced.

    Attributes:
        goal: Digest of its own name, as :func:`goal_digest` makes it.
        owner: The process that moved it.
    """

    goal: str
    owner: Temporary


def temporary_name(name: bytes) -> bytes:
    """Return a name that no other file has, for one try of the file called ``name``; no folder in either."""
    created = int(time.time())
    body = b"%s%x-%x" % (_process.prefix, created, next(_serial))
    return b".%s.%s.%08x%s" % (_stem(name), body, crc32(body), _SUFFIX.encode())


def local_temporary_name(name: str) -> str:
    """Return the same as :func:`temporary_name`, for a file that is written here."""
    if len(name) > _STEM_BYTES or not name.isascii():
        return os.fsdecode(temporary_name(os.fsencode(name)))
    # Every small file comes this way: half of the time that the encodings take.
    body = b"%s%x-%x" % (_process.prefix, int(time.time()), next(_serial))
    return f".{name}.{body.decode()}.{crc32(body):08x}{_SUFFIX}"


def part_name(name: bytes, origin: bytes, size: int, mtime: int) -> bytes:
    """Return the name of the part of a file: the same for the same arguments, on every machine.

    Args:
        name: What the file will be called; no folder.
        origin: What tells apart two files of one size and time that become ``name``: path, host, permissions.
        size: Bytes of the whole file.
        mtime: When it was last changed, in any unit; its low 64 bits count.
    """
    body = _part_body(name, origin, size, mtime)
    return b".%s.%s.%08x%s" % (_stem(name), body, crc32(body), _SUFFIX.encode())


def claimed_part_name(name: bytes, origin: bytes, size: int, mtime: int) -> bytes:
    """Return the name of a part for this process alone; no other file has it. Arguments as for :func:`part_name`."""
    body = b"%s-%s%x" % (_part_body(name, origin, size, mtime), _process.owner, next(_serial))
    return b".%s.%s.%08x%s" % (_stem(name, _STEM_BYTES_CLAIMED), body, crc32(body), _SUFFIX.encode())


def aside_name(name: bytes) -> bytes:
    """Return a name that no other file has, for the file called ``name`` while another one takes its place."""
    body = b"awo1-%s-%s%x" % (goal_digest(name).encode(), _process.owner, next(_serial))
    return b".%s.%s.%08x%s" % (_stem(name), body, crc32(body), _SUFFIX.encode())


def parse(name: str) -> Temporary | Part | Aside | None:
    """Return the fields of a name of ours; ``None`` for any other name."""
    if not name.endswith(_SUFFIX):  # nearly all that is asked for
        return None
    tail = name.rfind(".aw")
    found = _TAIL.fullmatch(name, tail) if tail > 0 and name[0] == "." else None
    if found is None:
        return None
    body, check = found.groups()
    if int(check, 16) != crc32(body.encode()):
        return None
    kind, *fields = body.split("-")
    if kind == "awp1" and len(fields) in (4, 8):
        owner = _owner(fields[4:7]) if len(fields) == 8 else None
        return Part(fields[0], fields[1], int(fields[2], 16), int(fields[3], 16), owner)
    if kind == "awo1" and len(fields) == 5:
        return Aside(fields[0], _owner(fields[1:4]))
    if kind == "awt1" and len(fields) == 5:
        return _owner(fields[:4])
    return None


def is_ours(name: str) -> bool:
    """Return whether a name is that of a file which is not whole yet."""
    return name.endswith(_SUFFIX) and parse(name) is not None


def stem_of(name: str) -> str:
    """Return the beginning of the file's own name, which is all of it unless it is long, from a name of ours."""
    return name[1 : name.rfind(".aw")]


@lru_cache(maxsize=1024)
def goal_digest(name: bytes) -> str:
    """Return what the name of a part holds of the name of its file."""
    return hashlib.sha256(name).hexdigest()[:_DIGEST_CHARS]


def is_of_this_process(name: Temporary) -> bool:
    """Return whether this process made a name."""
    return _process.owner == b"%08x-%x-%x-" % (name.machine, name.pid, name.start)


def owner_has_ended(name: Temporary) -> bool:
    """Return whether the process that made a name is known to have ended: never one of another machine. Blocks."""
    if name.machine != _process.machine:
        return False
    try:
        os.kill(name.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        pass
    start = _start_of(name.pid)
    return start is not None and start != name.start


# -- inside ------------------------------------------------------------------------------------------------------------


def _stem(name: bytes, most: int = _STEM_BYTES) -> bytes:
    if len(name) <= most:
        return name
    return name[:most].decode("utf-8", "ignore").encode()  # some servers refuse half a character


def _part_body(name: bytes, origin: bytes, size: int, mtime: int) -> bytes:
    return b"awp1-%s-%s-%x-%x" % (
        goal_digest(name).encode(),
        hashlib.sha256(origin).hexdigest()[:_DIGEST_CHARS].encode(),
        size,
        mtime & 0xFFFFFFFFFFFFFFFF,
    )


def _owner(fields: list[str]) -> Temporary:
    return Temporary(*(int(field, 16) for field in fields))


class _Process:
    """Identity of this process in temporary names."""

    def __init__(self) -> None:
        self.find_out()

    def find_out(self) -> None:
        """Look it up, anew in a child."""
        pid = os.getpid()
        start = _start_of(pid)
        self.machine = _machine()
        self.owner = b"%08x-%x-%x-" % (self.machine, pid, time.time_ns() if start is None else start)
        self.prefix = b"awt1-" + self.owner


def _machine() -> int:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        pids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # nothing that other processes could be compared with
        boot, pids = os.urandom(16).hex(), ""
    return crc32(f"{boot}\0{pids}\0{socket.gethostname()}".encode())


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since the boot; 0 for one that has ended and whose parent has not asked yet."""
    try:
        # The name of the program, in brackets, may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.find_out)
