"""A limit of bytes a second, by a clock that the test turns."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.bandwidth import Bandwidth


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@given(st.integers(1, 10**9), st.integers(0, 1000))
@pytest.mark.promise("sftp-rate-is-a-bound")
def test_no_more_leaves_than_the_rate_allows_and_not_much_less(bytes_per_s: int, seed: int) -> None:
    clock, chance = Hands(), random.Random(seed)
    bandwidth = Bandwidth(bytes_per_s, clock)  # type: ignore[arg-type]
    burst = bandwidth.room()
    assert burst <= max(bytes_per_s, 16 * 1024)
    sent = given_back = 0
    for _ in range(200):
        while (size := chance.randint(1, bandwidth.request_bytes)) <= bandwidth.room():
            bandwidth.spend(size)
            sent += size
            if chance.random() < 0.3:  # a READ that brought less than it asked for
                unused = chance.randint(0, size)
                bandwidth.give_back(unused)
                given_back += unused
        assert sent - given_back <= burst + clock.now * bytes_per_s + 1
        clock.now += bandwidth.wait_s()
    assert sent - given_back >= 0.9 * (clock.now - bandwidth.wait_s()) * bytes_per_s - burst - bandwidth.request_bytes


def test_a_debt_is_paid_before_anything_else_leaves() -> None:
    clock = Hands()
    bandwidth = Bandwidth(1000, clock)  # type: ignore[arg-type]
    burst = bandwidth.room()
    bandwidth.spend(burst + 5000)
    assert bandwidth.room() == -5000
    clock.now += bandwidth.wait_s() - 0.01
    assert bandwidth.room() < burst
    clock.now += 0.02
    assert bandwidth.room() >= bandwidth.request_bytes


def test_there_is_always_room_for_the_largest_request_in_the_end() -> None:
    for bytes_per_s in (1, 100, 10_000, 10**6, 10**9):
        clock = Hands()
        bandwidth = Bandwidth(bytes_per_s, clock)  # type: ignore[arg-type]
        bandwidth.spend(bandwidth.room())
        clock.now += bandwidth.wait_s() * 1.001
        assert bandwidth.room() >= bandwidth.request_bytes
