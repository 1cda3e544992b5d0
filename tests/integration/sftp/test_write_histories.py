"""Whatever a server refuses, whoever is killed and whichever line is cut: a file is the old one or the new one, whole.

``pytest tests/integration/sftp/test_write_histories.py --chaos-seed N --sftp-histories M`` for other ones, and more;
``python -m tests.sftp_histories`` runs them outside of pytest, and one of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from asyncworker.sftp import packets, stripedput
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.packets import OpenFlag
from asyncworker.sftp.part_claims import PartClaim
from asyncworker.sftp.placing import Outcome, Placing
from asyncworker.sftp.stripedput import StripedUpload
from asyncworker.sftp.temporary_names import part_name
from tests.histories.laws import LawBroken
from tests.sftp_histories import run_one

#: In so many histories each of the faults below is met.
_ENOUGH = 600


@pytest.mark.timeout(600)
@pytest.mark.promise("fetched-file-is-complete")
def test_a_file_is_whole_at_any_time(request: pytest.FixtureRequest) -> None:
    seed, count = request.config.getoption("--chaos-seed"), request.config.getoption("--sftp-histories")
    for number in range(count):
        run_one(f"{seed}/{number}")


def test_a_rename_that_was_done_though_its_answer_was_lost_is_no_failure() -> None:
    """The second try is refused by a server that does not look first whether there is anything to rename."""
    run_one("audit14/2044")


def remove_first(self: Placing) -> Generator[Any, Any, Outcome]:
    """Replace by removing the old file first."""
    yield lambda callback, owner: self._protocol.remove(self._goal, callback, owner)
    return Outcome((yield self._rename(self._whole, self._goal)))


def never_back(self: Placing) -> Generator[Any, Any, Outcome]:
    """Replace without a way back."""
    self.aside = None
    yield self._rename(self._goal, self._goal + b".old")
    answer = yield self._rename(self._whole, self._goal)
    return Outcome(packets.Status(packets.OK) if answer.code == packets.OK else answer)


def one_part_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a part that other uploads of the same file write too, and empty it first."""

    async def begin(self: StripedUpload, source: LocalSource, claim: PartClaim) -> int:
        flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.TRUNCATE
        (await self._open(claim.path, flags, 0o600)).begin_to_close()
        return 0

    monkeypatch.setattr(stripedput, "claimed_part_name", part_name)
    monkeypatch.setattr(StripedUpload, "_begin", begin)


def trusted_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a part without comparing it."""

    async def is_same(self: StripedUpload, *_: object) -> bool:
        return True

    monkeypatch.setattr(StripedUpload, "_is_same", is_same)


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    lambda patch: patch.setattr(Placing, "_swap", remove_first),
    lambda patch: patch.setattr(Placing, "_swap", never_back),
    one_part_for_all,
    trusted_parts,
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=["remove first", "never back", "one part", "trusted parts"])
def test_the_histories_find_a_way_of_writing_that_loses_files(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fault(monkeypatch)
    with pytest.raises(LawBroken):
        for number in range(_ENOUGH):
            run_one(f"1/{number}")
