"""The demo's work folder: where each thing is, what a killed demo left, and who may use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import msgspec

from asyncworker.private_files import PRIVATE_UMASK, make_private_folder

__all__ = ["PAUSE_VARIABLE", "DemoFolder", "DemoRecord"]

PAUSE_VARIABLE = "ASYNCWORKER_DEMO_PAUSE_S"


class DemoRecord(msgspec.Struct, frozen=True, kw_only=True):
    """State that the next demo needs to continue this one."""

    files: int
    run_id: str
    started_at: datetime


class DemoFolder:
    """The places in one work folder. Making the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.source = self.root / "remote"
        self.received = self.root / "received"
        self.keys = self.root / "keys"
        self.broker = self.root / "broker"
        self.state = self.root / "state"
        self.logs = self.root / "logs"
        self.opened_log = self.logs / "opened.log"
        self.server_file = self.root / "server.json"
        self.record_file = self.root / "demo.json"
        self.lock_file = self.root / "demo.lock"

    @property
    def _made(self) -> tuple[Path, ...]:
        # The record goes last: as long as it is there, the folder is known to be ours.
        folders = (self.source, self.received, self.keys, self.broker, self.state, self.logs)
        return (*folders, self.server_file, self.record_file, self.lock_file)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other demos out of it.

        Raises:
            click.ClickException: Another demo is in it, or it holds something that is not a demo's.
        """
        if self.root.exists() and not self.lock_file.exists() and any(self.root.iterdir()):
            raise click.ClickException(f"{self.root} is not empty and not of an earlier demo; name another with --dir")
        make_private_folder(self.root)
        umask = os.umask(PRIVATE_UMASK)  # of the processes that it starts, too
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise click.ClickException(f"another demo is running in {self.root}; name another --dir") from None
            yield
        finally:
            os.umask(umask)
            os.close(descriptor)

    def record(self) -> DemoRecord | None:
        """Return what an unfinished demo has left, if there is one."""
        try:
            return msgspec.json.decode(self.record_file.read_bytes(), type=DemoRecord)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def save(self, record: DemoRecord) -> None:
        """Note the run, all or nothing."""
        draft = self.record_file.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode(record))
        draft.replace(self.record_file)

    def sweep(self) -> int:
        """Remove what a killed worker left of files that it had not finished; return how many there were."""
        parts = list(self.received.glob(".*.part")) if self.received.exists() else []
        for part in parts:
            part.unlink()
        return len(parts)

    def forget_broker(self) -> None:
        """Drop the former broker's messages: the run is sent again under its own id, and the store knows the rest."""
        shutil.rmtree(self.broker, ignore_errors=True)

    def empty(self) -> None:
        """Remove what an earlier demo left, and nothing else; the lock stays."""
        for path in self._made:
            if path == self.lock_file:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all that the demo made, and the folder where nothing else is in it."""
        self.empty()
        self.lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()
