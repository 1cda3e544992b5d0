"""What a Redis broker has written down of its messages: the append-only file, which is written before it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OPTIONS", "taken_and_gone"]

#: For the server: nothing is dropped from the file, it tells the time, and what was answered outlives a SIGKILL
#: (with ``everysec`` an answer may be ahead of its writing).
OPTIONS = {"auto-aof-rewrite-percentage": "0", "aof-timestamp-enabled": "yes", "appendfsync": "no"}


def taken_and_gone(folder: Path, queue: str = "celery", unacked: str = "unacked") -> dict[str, float]:
    """Find the tasks that were lost between the server and a worker.

    Args:
        folder: The server's.
        queue: A list of messages, in database 0, as ``unacked`` is, the hash of those that are not acknowledged.

    Returns:
        By task id, the second (of ``time.time()``) in which a pop took the message from its queue; nothing was done
        with it ever after: it was neither entered as unacknowledged, nor acknowledged, nor put back.
    """
    waiting: list[bytes] = []
    taken: dict[str, float] = {}
    tags: dict[bytes, str] = {}
    for at_s, words in _commands(folder, database=0):
        match words[0].upper(), words[1:]:
            case b"LPUSH" | b"RPUSH" as name, [key, *messages] if key == queue.encode():
                for message in messages:
                    taken.pop(_task_id(json.loads(message)), None)
                    waiting.insert(0 if name == b"LPUSH" else len(waiting), message)
            case b"RPOP", [key, *count] if key == queue.encode():
                for _ in range(int(count[0]) if count else 1):
                    taken[_task_id(json.loads(waiting.pop()))] = at_s
            case b"LTRIM", [key, _start, end] if key == queue.encode():
                # A batch, entered in the same transaction before this.
                del waiting[len(waiting) + 1 + int(end) :]
            case b"HSET", [key, *pairs] if key == unacked.encode():
                for tag, entry in zip(pairs[::2], pairs[1::2], strict=True):
                    tags[tag] = _task_id(json.loads(entry)[0])
                    taken.pop(tags[tag], None)
            case b"HDEL", [key, *gone] if key == unacked.encode():
                for tag in gone:
                    taken.pop(tags[tag], None)
    return taken


def _task_id(message: object) -> str:
    assert isinstance(message, dict)
    return str(message["headers"]["id"])


def _commands(folder: Path, database: int) -> Iterator[tuple[float, list[bytes]]]:
    """Yield the commands that changed a database, and the second in which they were carried out."""
    at_s, selected = 0.0, 0
    (path,) = folder.glob("appendonlydir/*.incr.aof")
    with path.open("rb") as file:
        while head := file.readline():
            if head.startswith(b"#TS:"):
                at_s = float(head[4:])
                continue
            words = [file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
            if words[0].upper() == b"SELECT":
                selected = int(words[1])
            elif selected == database:
                yield at_s, words
