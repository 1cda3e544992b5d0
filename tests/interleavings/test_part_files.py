"""Downloads of one file on one machine, in every order of their system calls: what has its name is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import partfile
from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.partfile import PartFile
from asyncworker.sftp.temporary_names import is_ours
from tests.interleavings.steps import Gated, at_random, every_order, holder

DATA = b"whole, it is"
BLOCK = 6
OLD = b"the old one"


class TwoDownloads:
    """Processes that fetch one file into one folder, some of which break off half-way.

    Args:
        folder: Emptied first.
        fetching: For each whether it breaks off and keeps its part.
        old: Whether another file has the name.
    """

    def __init__(self, folder: Path, fetching: tuple[bool, ...], *, old: bool = False) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.goal = folder / "goal"
        if old:
            self.goal.write_bytes(OLD)
        self._parts: dict[int, PartFile] = {}
        self._dead: set[int] = set()
        self.ok: list[int] = []
        self.opened: defaultdict[int, set[int]] = defaultdict(set)
        self.holders: list[Callable[[], object]] = [lambda off=off: self._fetch(off) for off in fetching]

    def _fetch(self, breaks_off: bool = False) -> None:
        folder = OpenFolder(os.open(self.goal.parent, os.O_RDONLY))
        try:
            part = PartFile(str(self.goal), folder, len(DATA), 7, 0o644)
        except BlockingIOError:
            return
        while part.whole < len(DATA):
            part.write([(part.whole, DATA[part.whole : part.whole + BLOCK])], part.whole + BLOCK)
            if breaks_off:
                part.keep()
                return
        part.commit(sync=False)
        assert self.goal.read_bytes() == DATA
        self.ok.append(holder())

    def note(self, name: str, args: tuple[Any, ...], value: Any) -> None:
        """Keep account of the descriptors of each process."""
        if name == "open":
            self.opened[holder()].add(value)
        elif name == "close":
            self.opened[holder()].discard(args[0])

    def died(self, number: int) -> None:
        """The system closes what it had open, and with it goes its lock."""
        self._dead.add(number)
        for fd in self.opened.pop(number, ()):
            os.close(fd)

    def check(self) -> None:
        """Under its name is what was there before, or the whole."""
        found = self.goal.read_bytes() if self.goal.exists() else None
        assert found in (None, OLD, DATA), found
        if self.ok:
            assert found == DATA

    def check_end(self) -> None:
        """The next one fetches it whole, and leaves nothing of a part."""
        self._fetch()
        assert self.goal.read_bytes() == DATA
        left = {path.name for path in self.goal.parent.iterdir()} - {"goal"}
        assert all(is_ours(name) for name in left)
        assert not left or self._dead, left


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], TwoDownloads]]:
    """Make scenarios; each system call of a part is a point."""
    current: list[TwoDownloads] = []
    calls = ("open", "fstat", "stat", "ftruncate", "pwrite", "pread", "unlink", "replace", "close")
    note: Callable[[str, tuple[Any, ...], Any], None] = lambda *call: current[-1].note(*call)  # noqa: E731
    monkeypatch.setattr(partfile, "os", Gated(os, *calls, after=note))
    monkeypatch.setattr(partfile, "fcntl", Gated(fcntl, "flock"))

    def of(*fetching: bool, old: bool = False) -> Callable[[], TwoDownloads]:
        def start() -> TwoDownloads:
            current[:] = [TwoDownloads(tmp_path / "folder", fetching, old=old)]
            return current[-1]

        return start

    return of


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("fetching", [(False, False), (True, False), (True, True)])
@pytest.mark.promise("fetched-file-is-complete")
def test_what_stands_under_its_name_is_whole_after_every_call(make: Any, fetching: tuple[bool, ...], old: bool) -> None:
    assert every_order(make(*fetching, old=old), deviations=2) > 200


def test_of_three_at_random(make: Any, seed: int, schedules: int) -> None:
    at_random(make(False, True, False), seed=seed, count=20 * schedules)


def not_looked_at_again(self: PartFile) -> bool:
    return self._fd >= 0


def not_locked(self: PartFile) -> bool:
    return True


@pytest.mark.parametrize(
    ("name", "fault"),
    [("_has_its_name", not_looked_at_again), ("_lock_it", not_locked)],
    ids=["not looked at again", "not locked"],
)
def test_the_orders_find_a_part_that_two_write(
    make: Any, monkeypatch: pytest.MonkeyPatch, name: str, fault: Any
) -> None:
    monkeypatch.setattr(PartFile, name, fault)
    with pytest.raises(pytest.fail.Exception, match="in the schedule"):
        every_order(make(False, False), deviations=2)
