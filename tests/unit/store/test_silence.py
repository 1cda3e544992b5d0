"""Silence is counted only while somebody listens."""

from __future__ import annotations

from asyncworker.store import Silence
from tests.unit.iterate.clocks import ManualClock


def test_it_lasts_while_the_sign_is_the_same() -> None:
    clock = ManualClock()
    silence = Silence(0.6, clock)
    assert silence.lasts_s("one") == 0
    for looks in range(1, 6):
        clock.seconds += 0.75
        assert silence.lasts_s("one") == looks * 0.75
    clock.seconds += 0.75
    assert silence.lasts_s("two") == 0
    clock.seconds += 0.75
    silence.begin()
    clock.seconds += 0.5
    assert silence.lasts_s("two") == 0.5


def test_who_was_frozen_has_not_listened() -> None:
    clock = ManualClock()
    silence = Silence(0.5, clock)
    silence.lasts_s("one")
    clock.seconds += 3600
    assert silence.lasts_s("one") == 1.0
    clock.seconds += 0.5
    assert silence.lasts_s("one") == 1.5
