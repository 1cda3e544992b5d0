"""Whose turn it is."""

from __future__ import annotations

import asyncio

import pytest

from asyncworker.iterate.turns import Turns


def suspends(turns: Turns) -> bool:
    """Whether whoever gives way now is suspended for it."""
    giving_way = turns.give_way()
    try:
        giving_way.send(None)
    except StopIteration:
        return False
    giving_way.close()
    return True


async def test_the_loop_gets_one_pass_a_slice_and_no_more() -> None:
    turns = Turns()
    assert suspends(turns), "nothing is known of the loop yet"
    await asyncio.sleep(0)
    began = turns.slice_ends
    assert began > 0, "the slice was not renewed by the pass"
    assert suspends(turns), "the loop has done nothing since the slice began"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not suspends(turns), "the loop has had its pass"
    assert turns.slice_ends > began
    assert suspends(turns), "that pass was not for this slice"


@pytest.mark.parametrize("pullers", [1, 50])
async def test_pullers_that_never_wait_let_others_have_their_turn(pullers: int) -> None:
    turns = Turns()
    turns.SLICE_S = 0.0  # type: ignore[misc]  # each item is a slice
    passes_of_another = 0
    items = 0

    async def pull() -> None:
        nonlocal items
        for _ in range(100):
            await turns.give_way()
            items += 1

    async def another() -> None:
        nonlocal passes_of_another
        while items < pullers * 100:
            passes_of_another += 1
            await asyncio.sleep(0)

    await asyncio.gather(another(), *(pull() for _ in range(pullers)))
    assert passes_of_another >= 100 // 2
