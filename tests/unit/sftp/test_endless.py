"""Which listings are given up: those that go round, and no others."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from asyncworker.sftp.endless import EndlessListing
from asyncworker.sftp.packets import Attributes, Name


def given_up(names: Iterable[bytes], per_answer: int, most: int) -> tuple[int, str] | None:
    """After how many names, and why; ``None``: not within so many."""
    endless = EndlessListing()
    source = iter(names)
    seen = 0
    while seen < most:
        answer = tuple(Name(name, Attributes()) for name in itertools.islice(source, per_answer))
        if not answer:
            return None
        seen += len(answer)
        fault = endless.see(answer)
        if fault is not None:
            return seen, fault
    return None


@pytest.mark.parametrize("per_answer", [1, 7, 100])
@pytest.mark.parametrize("before", [0, 1, 999])
@pytest.mark.parametrize("round_", [1, 2, 17, 1000])
def test_a_round_is_found_wherever_it_begins(before: int, round_: int, per_answer: int) -> None:
    first = (b"before %d" % n for n in range(before))
    again = itertools.cycle([b"%d" % n for n in range(round_)])
    most = 200 * (before + 40 * round_ + 10 * per_answer)
    found = given_up(itertools.chain(first, again), per_answer, most)
    assert found is not None
    assert f"the same {round_:,} names again and again" in found[1]


@pytest.mark.parametrize("per_answer", [1, 7, 100])
def test_a_long_listing_is_no_round(per_answer: int) -> None:
    assert given_up((b"%d" % n for n in range(100_000)), per_answer, 10**6) is None


@pytest.mark.parametrize("per_answer", [1, 7, 100])
def test_names_that_look_alike_are_no_round(per_answer: int) -> None:
    """A server that writes ``?`` for what it cannot encode lists some names many times, in no regular order."""
    chance = random.Random(1)
    names = [b"????.txt" if chance.random() < 0.3 else b"%d.txt" % n for n in range(50_000)]
    assert given_up(names, per_answer, 10**6) is None


def test_a_folder_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncworker.sftp.endless._NAMES_MAX", 1000)
    found = given_up((b"%d" % n for n in itertools.count()), 100, 10**6)
    assert found == (1100, "more than 1,000 names")
