"""Holders whose calls block: each runs in a greenlet as far as its next call, and a schedule decides whose turn it is.

One that is frozen is one whose turn comes late; one that dies never has another.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

__all__ = ["Gated", "Scenario", "at_random", "every_order", "holder", "point"]

#: What could be done at a step: "go" or "die", and which holder; the usual first, which is to go on as before.
Step = list[tuple[str, int]]


class Scenario(Protocol):
    """What some holders do, and its laws."""

    #: What each of them does, from one point to the next.
    holders: list[Callable[[], object]]

    def died(self, number: int) -> None:
        """Do what the system does when that one dies."""

    def check(self) -> None:
        """Check what holds after each step."""

    def check_end(self) -> None:
        """Check what holds once all have ended or died."""


class _Holder(greenlet):
    """A holder between two points."""

    number = -1
    killed = False


def holder() -> int:
    """Return which holder runs here; -1 outside of all."""
    return getattr(getcurrent(), "number", -1)


def point() -> None:
    """Wait for the turn of the holder that runs here; outside of all, go on."""
    current = getcurrent()
    if isinstance(current, _Holder):
        assert current.parent is not None
        if current.killed:
            raise GreenletExit  # out of what cleans up, too: the dead do not
        current.parent.switch()


class Gated:
    """An object or module, some calls of which wait for their holder's turn.

    Args:
        inner: What is called.
        names: The calls that wait; empty: all.
        after: Called with the name, the arguments and the value of each call of a holder.
    """

    def __init__(
        self, inner: Any, *names: str, after: Callable[[str, tuple[Any, ...], Any], None] | None = None
    ) -> None:
        self._inner = inner
        self._names = names
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if (self._names and name not in self._names) or isinstance(found, type | ModuleType) or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            point()
            value = found(*args, **kwargs)
            if self._after is not None:
                self._after(name, args, value)
            return value

        return call


def _run(scenario: Scenario, choose: Callable[[int, Step], int]) -> list[Step]:
    """Run one schedule; returns what could have been done at each step."""
    holders = [_Holder(each) for each in scenario.holders]
    steps: list[Step] = []
    done: list[tuple[str, int]] = []
    last = 0
    for number, each in enumerate(holders):
        each.number = number
    try:
        while able := [number for number, each in enumerate(holders) if not each.dead]:
            usual = last if last in able else able[0]
            step = [("go", usual), *(("go", number) for number in able if number != usual)]
            if len(able) > 1:
                step.append(("die", usual))
            steps.append(step)
            what, last = step[choose(len(steps) - 1, step)]
            done.append((what, last))
            if what == "go":
                holders[last].switch()
            else:
                holders[last].killed = True
                holders[last].throw(GreenletExit)
                scenario.died(last)
            scenario.check()
        scenario.check_end()
    except Exception as exc:
        pytest.fail(f"{exc!r} in the schedule {done}")
    return steps


def every_order(make: Callable[[], Scenario], *, deviations: int | None = None) -> int:
    """Run every schedule; returns how many.

    Args:
        make: Makes the scenario anew for each.
        deviations: The most steps at which another than the usual thing is done; ``None``: any.
    """
    plans: list[dict[int, int]] = [{}]
    ran = 0
    while plans:
        plan = plans.pop()
        steps = _run(make(), lambda number, _step, plan=plan: plan.get(number, 0))  # type: ignore[misc]
        ran += 1
        if deviations is not None and len(plan) == deviations:
            continue
        for number in range(max(plan, default=-1) + 1, len(steps)):
            plans += [plan | {number: option} for option in range(1, len(steps[number]))]
    return ran


def at_random(make: Callable[[], Scenario], *, seed: int, count: int) -> None:
    """Run random schedules."""
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        often = chance.choice([0.1, 0.3, 0.6])

        def choose(_number: int, step: Step, chance: random.Random = chance, often: float = often) -> int:
            return chance.randrange(len(step)) if chance.random() < often else 0

        _run(make(), choose)
