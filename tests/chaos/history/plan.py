"""What a chaos run does, step by step, from a seed: the same seed is the same plan."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.history.settings import LEASE_S, LONG_S

__all__ = ["HARMS", "Harm", "Send", "Step", "plan"]

#: Shares of the kinds of tasks, in a hundred.
_KINDS = {"early": 20, "late": 48, "late_sync": 24, "long": 5, "fan_out": 3}
#: Shares of the kinds of harm.
HARMS = {
    "kill": 34,
    "freeze": 16,
    "freeze_long": 14,
    "freeze_kill": 8,
    "leave": 10,
    "disconnect": 8,
    "restart": 5,
    "crash": 5,
    "refuse": 8,
}
#: Tasks between two harms.
_EVERY = 28


@dataclass(frozen=True)
class Send:
    """A task."""

    kind: str
    seconds: float


@dataclass(frozen=True)
class Harm:
    """Something bad: to a worker, or to the broker.

    ``kill``: SIGKILL. ``freeze``: SIGSTOP for less than a lease; ``freeze_long``: for longer; ``freeze_kill``: SIGKILL
    in the place of SIGCONT. ``leave``: SIGTERM. ``disconnect``: every connection of the broker is cut. ``restart``: of
    the broker, in order; ``crash``: by SIGKILL. ``refuse``: it answers and cannot write, where its workers are to stand
    that; else nothing.
    """

    kind: str
    victim: float
    """Which worker, as a share of those that run."""
    seconds: float


Step = Send | Harm


def plan(seed: int, tasks: int) -> Iterator[Step]:
    """Yield what to do, in order, for ever: tasks, and harm in between.

    Args:
        seed: Of everything.
        tasks: About how many are wanted: the broker crashes at least once among them.
    """
    dice = random.Random(seed)
    crash_at = dice.randrange(tasks // 4, tasks // 2)
    for number in itertools.count():
        kind = _drawn(dice, _KINDS)
        yield Send(kind, _seconds(dice, kind))
        if number == crash_at:
            yield Harm("crash", 0.0, 1.0)
        elif number and dice.random() < 1 / _EVERY:
            harm = _drawn(dice, HARMS)
            yield Harm(harm, dice.random(), _harm_seconds(dice, harm))


def _drawn(dice: random.Random, shares: dict[str, int]) -> str:
    return dice.choices(list(shares), list(shares.values()))[0]


def _seconds(dice: random.Random, kind: str) -> float:
    match kind:
        case "long":
            return LONG_S + dice.uniform(0, 3)
        case "fan_out":
            return dice.uniform(0.02, 0.2)  # each item
        case _:
            return dice.choice([0.0, dice.uniform(0, 0.1), dice.uniform(0, 1)])


def _harm_seconds(dice: random.Random, harm: str) -> float:
    match harm:
        case "freeze" | "freeze_kill":
            return dice.uniform(0.1, LEASE_S / 2)
        case "freeze_long":
            return dice.uniform(LEASE_S * 2, LEASE_S * 3)
        case _:
            return dice.uniform(0.2, 2.0)
