"""Compare our lines with prefork's; what differs must be meant."""

from __future__ import annotations

import dataclasses
import difflib
import re

from tests.parity.meant import MEANT, Meant

__all__ = ["Verdict", "compare"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One scenario, one of our sides against prefork."""

    scenario: str
    side: str
    lines: int
    unexplained: tuple[str, ...]
    meant: tuple[Meant, ...]

    @property
    def word(self) -> str:
        """How the table says it."""
        return "differs" if self.unexplained else "differs as meant" if self.meant else "same"


def compare(scenario: str, side: str, prefork: list[str], ours: list[str]) -> Verdict:
    """Compare the lines of a scenario."""
    rules = [rule for rule in MEANT if re.fullmatch(rule.scenario, scenario) and side in rule.sides]
    used: list[Meant] = []
    unexplained = [line for line in {*prefork, *ours} if line.startswith(("fact | the scenario", "fact | waited"))]
    for line in difflib.ndiff(prefork, ours):
        if line[0] not in "-+":
            continue
        rule = next((rule for rule in rules if re.search(rule.lines, line[2:])), None)
        if rule is None:
            unexplained.append(f"{'prefork' if line[0] == '-' else side:>8}: {line[2:]}")
        elif rule not in used:
            used.append(rule)
    return Verdict(scenario, side, len(prefork), tuple(unexplained), tuple(used))
