"""Large values beside the database: in a folder, or wherever fsspec can write. All of it blocks; see `Payloads`."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from asyncworker.errors import PayloadError, SettingsError
from asyncworker.private_files import make_private_folder
from asyncworker.redaction import redacted

__all__ = ["Payload", "Payloads", "check_payload_url"]

#: Where each kind lies.
SOURCES, RESULTS = "sources", "results"

_ADVICE = (
    "whoever sends a fan-out and every worker must reach the same files: set ASYNCWORKER_PAYLOAD_URL alike, "
    "to a shared folder or a URL that fsspec knows"
)


#: Names that are given here; what travels is compared with them before anything is opened.
_SOURCE = re.compile(r"sources/([0-9a-f]{2})/(\1[0-9a-f]{62})")
#: How a URL starts, one that was mistyped (``s3:/bucket``) among them.
_SCHEME = re.compile(r"[A-Za-z0-9+.-]*:")
_RESULT = re.compile(r"results/[0-9a-f]{32}/([0-9a-f]{64})")


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a value is; what travels in its place."""

    name: str
    size_bytes: int
    sha256: str


class Place(Protocol):
    """Somewhere that holds files by relative name. Its methods block, and raise what they will."""

    def write(self, name: str, body: bytes) -> None:
        """Write a file whole, or not at all; one of the same name and size is made young instead, where that can be."""

    def read(self, name: str, size_bytes: int) -> bytes:
        """Return the content of a file that should be so large; of a larger one no more than shows that it is."""

    def touch(self, name: str) -> None:
        """Make a file young, where that can be."""

    def old(self, folder: str, before: datetime) -> list[str]:
        """Return the names in a folder that were written before that."""

    def remove(self, name: str) -> None:
        """Delete a file; it may be gone already."""

    def remove_folder(self, name: str) -> None:
        """Delete a folder with all in it; it may be gone already."""


class Payloads:
    """The payloads at one URL. Every method blocks: call it from a thread, not on an event loop.

    Sources are named by their content: one that is sent a hundred times is there once. Results lie in a folder for each
    run. What is read is compared with the size and the SHA-256 that travelled.

    Args:
        url: A path, a ``file:`` URL, or any URL that fsspec knows.
        over_bytes: What takes more bytes than this belongs here.

    Each method raises a `SettingsError` where there is nothing here that can use this URL.
    """

    def __init__(self, url: str, over_bytes: int = 64 << 10) -> None:
        self.url = redacted(url)
        self.over_bytes = over_bytes
        self._url = url

    @functools.cached_property
    def _place(self) -> Place:
        return _place(self._url)

    def put_source(self, body: bytes) -> Payload:
        """Keep the values of a source.

        Raises:
            PayloadError: It cannot be written.
        """
        digest = hashlib.sha256(body).hexdigest()
        return self._put(f"{SOURCES}/{digest[:2]}/{digest}", body, digest)

    def put_result(self, run_id: str, body: bytes) -> Payload:
        """Keep a result of a run.

        Raises:
            PayloadError: It cannot be written.
        """
        digest = hashlib.sha256(body).hexdigest()
        return self._put(f"{_results_of(run_id)}/{digest}", body, digest)

    def get(self, payload: Payload) -> bytes:
        """Read a payload.

        Raises:
            PayloadError: It cannot be read, is not what was written, or its name, which has travelled, is none of ours.
        """
        _check_name(payload)
        with self._translated("read", payload):
            body = self._place.read(payload.name, payload.size_bytes)
        if len(body) == payload.size_bytes and hashlib.sha256(body).hexdigest() == payload.sha256:
            return body
        raise PayloadError(
            f"payload {payload.name} at {self.url} is not what was written: expected {payload.size_bytes:,} bytes and "
            f"their SHA-256, found {len(body):,} bytes"
        )

    def touch(self, payload: Payload) -> None:
        """Keep a payload for as long again, as it is in use.

        Raises:
            PayloadError: Its name is none of ours.
        """
        _check_name(payload)
        with suppress(Exception):  # it was read a moment ago, and some places cannot do it
            self._place.touch(payload.name)

    def remove_results(self, run_id: str) -> None:
        """Delete all results of a run.

        Raises:
            PayloadError: They cannot be deleted.
        """
        with self._translated("delete", Payload(_results_of(run_id), 0, "")):
            self._place.remove_folder(_results_of(run_id))

    def sweep_sources(self, keep_s: float) -> int:
        """Delete sources that were not sent or begun for so long; returns how many.

        Raises:
            PayloadError: They cannot be looked through.
        """
        with self._translated("look for", Payload(SOURCES, 0, "")):
            old = self._place.old(SOURCES, datetime.now(UTC) - timedelta(seconds=keep_s))
            for name in old:
                self._place.remove(name)
            return len(old)

    def _put(self, name: str, body: bytes, digest: str) -> Payload:
        payload = Payload(name, len(body), digest)
        with self._translated("write", payload):
            self._place.write(name, body)
        return payload

    @contextmanager
    def _translated(self, verb: str, payload: Payload) -> Iterator[None]:
        try:
            yield
        except SettingsError:
            raise
        except Exception as exc:
            # fsspec's clients have errors of their own, of no common class.
            raise PayloadError(
                f"cannot {verb} payload {payload.name} at {self.url}: {type(exc).__name__}: {exc}; {_ADVICE}"
            ) from exc


class _Folder:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def objection(self) -> str:
        """Return why nothing could ever be written here; empty: nothing is known against it."""
        existing = self._root
        try:
            while not existing.exists():
                existing = existing.parent
            if not existing.is_dir():
                return f"{existing} is not a folder"
            if not os.access(existing, os.W_OK | os.X_OK):
                return f"{existing} cannot be written to by this user"
        except OSError as exc:
            return str(exc)
        return ""

    def write(self, name: str, body: bytes) -> None:
        path = self._root / name
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(body):
                os.utime(path)
                return
        # Sources and results are nobody else's business.
        make_private_folder(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def read(self, name: str, size_bytes: int) -> bytes:
        path = self._root / name
        if not path.parent.resolve().is_relative_to(self._root.resolve()):
            raise PermissionError(f"{path.parent} leads out of {self._root}")
        # A link may lead anywhere, and a device or a pipe may never end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise PermissionError(f"{path} is not a regular file")
            return file.read(size_bytes + 1)

    def touch(self, name: str) -> None:
        os.utime(self._root / name, follow_symlinks=False)

    def old(self, folder: str, before: datetime) -> list[str]:
        found = []
        for path in (self._root / folder).rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < before.timestamp():
                    found.append(str(path.relative_to(self._root)))
        return found

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._root / name)


def _check_name(payload: Payload) -> None:
    found = _SOURCE.fullmatch(payload.name) or _RESULT.fullmatch(payload.name)
    if found is None or found[found.lastindex or 0] != payload.sha256 or payload.size_bytes < 0:
        raise PayloadError(
            f"{payload.name!r:.200} is not the name of a payload: whoever sent it did not get it from here"
        )


def check_payload_url(url: str) -> None:
    """Prove that it is a folder that exists or can be made, or a URL of a file system that is installed.

    Raises:
        SettingsError: It is neither.
    """
    place = _place(url)
    if isinstance(place, _Folder) and (reason := place.objection()):
        raise SettingsError(f"payload_url is {redacted(url)!r}: {reason}")


def _place(url: str) -> Place:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return _Folder(Path(unquote(parts.path)))
    if _SCHEME.match(url) is None or (parts.scheme != "file" and Path(url).is_dir()):
        return _Folder(Path(url).expanduser().absolute())
    if parts.scheme == "file" or "://" not in url or not parts.scheme:
        raise SettingsError(f"payload_url is {redacted(url)!r}: expected a folder, file:///FOLDER or SCHEME://PLACE")
    try:
        from asyncworker.store.payloads_fsspec import FsspecPlace
    except ImportError as exc:
        raise SettingsError(
            f"payload_url is {redacted(url)!r}: for any URL but a folder's, "
            "pip install 'asyncworker[payloads]', and what fsspec needs for that scheme"
        ) from exc
    try:
        return FsspecPlace(url)
    except Exception as exc:
        raise SettingsError(f"payload_url is {redacted(url)!r}: {type(exc).__name__}: {exc}") from exc


def _results_of(run_id: str) -> str:
    # A run's id is any text, and this is a path.
    return f"{RESULTS}/{hashlib.sha256(run_id.encode(errors='surrogatepass')).hexdigest()[:32]}"
