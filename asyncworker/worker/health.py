"""A sign of life for probes: a file that is rewritten once a second while the worker consumes and its loop answers."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from asyncworker.errors import SettingsError
from asyncworker.private_files import make_private_file
from asyncworker.settings import Settings

__all__ = [
    "BEAT_S",
    "Health",
    "HealthFile",
    "PlaceHealth",
    "Supervision",
    "check_health_file",
    "health_file",
    "health_files",
    "read_health",
    "read_supervision",
    "write_private",
]

logger = logging.getLogger(__name__)

#: Seconds between two writings.
BEAT_S = 1.0


class Health(msgspec.Struct, frozen=True):
    """Content of a worker's health file."""

    pid: int
    at_s: float
    """When it was written, seconds since 1970."""
    in_flight: int


class PlaceHealth(msgspec.Struct, frozen=True):
    """How it stands with one of the workers of ``--processes``."""

    node: str
    restarts: int
    """How many of its processes have ended badly since the supervisor was started."""
    bad_since_at_s: float | None
    """Since when no process of it takes tasks, or one after another ends, seconds since 1970; ``None``: all is well."""


class Supervision(msgspec.Struct, frozen=True):
    """Content of a supervisor's health file, beside those of its workers."""

    pid: int
    at_s: float
    """When it was written, seconds since 1970."""
    places: tuple[PlaceHealth, ...]


class HealthFile:
    """Writes the file; called by the consumer's own loop, so that a consumer that has stopped writes nothing.

    Args:
        path: The file; its folder must exist.
        lag_s: Tells how long the event loop has owed an answer.
        most_lag_s: A loop that owes one for longer is not alive.
        in_flight: Tells how many tasks are.
    """

    def __init__(
        self, path: Path, *, lag_s: Callable[[], float], most_lag_s: float, in_flight: Callable[[], int]
    ) -> None:
        self._path = path
        self._lag_s = lag_s
        self._most_lag_s = most_lag_s
        self._in_flight = in_flight
        self._failed = self._removed = False

    def beat(self) -> None:
        """Write it, unless the loop is blocked. A disk that does not take it is told once, and not fatal."""
        if self._removed or self._lag_s() > self._most_lag_s:
            return
        content = msgspec.json.encode(Health(os.getpid(), time.time(), self._in_flight()))
        try:
            write_private(self._path, content)
        except OSError as exc:
            if not self._failed:
                logger.error("cannot write the health file: %s", exc)
            self._failed = True

    def leave(self) -> None:
        """Write it no more: a successor does."""
        self._removed = True

    def remove(self) -> None:
        """Take it away for good: the worker takes no more tasks, though the loop that writes turns while it drains."""
        if self._removed:
            return
        self._removed = True
        try:
            _refuse_special(self._path)
            self._path.unlink(missing_ok=True)
        except OSError as exc:
            # A probe sees its age; what runs must not pay for it.
            logger.error("cannot remove the health file: %s", exc)


def _refuse_special(path: Path) -> None:
    """Refuse what is neither missing nor a file or a link: a device that is renamed over is gone for the machine."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FileExistsError(f"{path} is there, and is no regular file")


def check_health_file(settings: Settings) -> None:
    """Refuse a health file that could never be written.

    Raises:
        SettingsError: Its folder is missing, or something else than a file has its name.
    """
    if not settings.health_file:
        return
    path = Path(settings.health_file)
    try:
        _refuse_special(path)
    except OSError as exc:
        raise SettingsError(f"health_file is {settings.health_file!r}: {exc}") from None
    if not path.parent.is_dir():
        raise SettingsError(f"health_file is {settings.health_file!r}: its folder does not exist")


def write_private(path: Path, content: bytes) -> None:
    """Write a small file at once: a reader sees the old one or the new one."""
    _refuse_special(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    make_private_file(temporary)
    temporary.write_bytes(content)
    temporary.replace(path)


def health_file(settings: Settings, lag_s: Callable[[], float], in_flight: Callable[[], int]) -> HealthFile | None:
    """Return the file that the settings name; ``None`` where they name none."""
    if not settings.health_file:
        return None
    path, most_lag_s = Path(settings.health_file), settings.blocked_after_s
    return HealthFile(path, lag_s=lag_s, most_lag_s=most_lag_s, in_flight=in_flight)


def read_health(path: Path) -> Health | None:
    """Read the file; ``None`` where it is missing or not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Health)
    except (OSError, msgspec.DecodeError):
        return None


def read_supervision(path: Path) -> Supervision | None:
    """Read the file of a supervisor; ``None`` where it is missing or that of a worker."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Supervision)
    except (OSError, msgspec.DecodeError):
        return None


def health_files(path: Path) -> list[Path]:
    """Return the health files that are there: the worker's own, and with ``--processes`` each one's, ``PATH.1`` on."""
    return [*path.parent.glob(path.name), *sorted(path.parent.glob(f"{path.name}.[0-9]*"))]
