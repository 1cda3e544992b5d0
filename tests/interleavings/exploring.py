"""Schedules: all that differ from the usual one at a few steps, and random ones, each of which can be repeated."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import delete

from asyncworker.store import Store, schema
from tests.interleavings.world import Step, World

__all__ = ["Scenario", "explore", "explore_at_random", "run_schedule"]

#: Sets holders up in a world; returns what is checked when they have ended.
Scenario = Callable[[World], Awaitable[Callable[[], Awaitable[None]]]]

#: Which option is chosen at which step; the first one at all others.
Plan = dict[int, int]


async def run_schedule(store: Store, scenario: Scenario, choose: Callable[[int, Step], int]) -> World:
    """Run one schedule on an empty store, and check its laws."""
    async with store.writing() as connection:
        for table in schema.metadata.sorted_tables:
            if table is not schema.version:
                await connection.execute(delete(table))
    chosen: Plan = {}

    def choose_and_note(number: int, step: Step) -> int:
        choice = choose(number, step)
        if choice:
            chosen[number] = choice
        return choice

    world = World(store, choose_and_note)
    try:
        check = await scenario(world)
        await world.run()
        await check()
    except Exception as exc:
        log = "\n".join(world.log)
        pytest.fail(f"{exc!r} in the schedule {chosen}:\n{log}")
    return world


async def explore(store: Store, scenario: Scenario, *, deviations: int, every: int) -> int:
    """Run the schedules with so many deviations from the usual one, and those with fewer; return how many those were.

    Args:
        store: Where it happens.
        scenario: What happens.
        deviations: The most steps at which another option than the usual one is chosen.
        every: Of the schedules with the most deviations, run each n-th.
    """
    plans: list[Plan] = [{}]
    ran = met = 0
    while plans:
        plan = plans.pop()
        if len(plan) == deviations:
            met += 1
            if met % every:
                continue
        world = await run_schedule(store, scenario, lambda number, _step, plan=plan: plan.get(number, 0))
        ran += 1
        if len(plan) == deviations:
            continue
        first = max(plan, default=-1) + 1
        for number in range(first, len(world.steps)):
            plans += [plan | {number: option} for option in range(1, len(world.steps[number]))]
    return ran


async def explore_at_random(store: Store, scenario: Scenario, *, seed: int, schedules: int) -> None:
    """Run random schedules, in which a step is now and then another one than the usual one."""
    for number in range(schedules):
        chance = random.Random(f"{seed}/{number}")
        often = chance.choice([0.05, 0.2, 0.5])

        def choose(_number: int, step: Step, chance: random.Random = chance, often: float = often) -> int:
            return chance.randrange(len(step)) if chance.random() < often else 0

        await run_schedule(store, scenario, choose)
