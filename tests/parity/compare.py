"""Compare our lines with prefork's; what differs must be meant."""

from __future__ import annotations

import dataclasses
import difflib
import re

from tests.parity.meant import MEANT, Meant

__all__ = ["BROKEN", "Verdict", "compare", "verdicts"]

#: Facts that say that nothing was compared; they would be the same on both sides.
BROKEN = ("fact | the scenario itself failed", "fact | waited in vain")


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


def verdicts(seen: dict[str, dict[str, list[str]]]) -> list[Verdict]:
    """Compare each of our sides with prefork, scenario by scenario."""
    prefork = seen["prefork"]
    return [
        compare(scenario, side, lines, ours[scenario])
        for scenario, lines in prefork.items()
        for side, ours in seen.items()
        if side != "prefork" and scenario in ours
    ]


def compare(scenario: str, side: str, prefork: list[str], ours: list[str]) -> Verdict:
    """Compare the lines of a scenario."""
    rules = [rule for rule in MEANT if re.fullmatch(rule.scenario, scenario) and side in rule.sides]
    used: list[Meant] = []
    unexplained = [line for line in {*prefork, *ours} if line.startswith(BROKEN)]
    for sign, line in _differing(prefork, ours):
        rule = next((rule for rule in rules if re.search(rule.lines, line)), None)
        if rule is None:
            unexplained.append(f"{'prefork' if sign == '-' else side:>8}: {line}")
        elif rule not in used:
            used.append(rule)
    return Verdict(scenario, side, len(prefork), tuple(unexplained), tuple(used))


def _differing(prefork: list[str], ours: list[str]) -> list[tuple[str, str]]:
    matcher = difflib.SequenceMatcher(None, prefork, ours, autojunk=False)
    found: list[tuple[str, str]] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal":
            found += [("-", line) for line in prefork[i1:i2]] + [("+", line) for line in ours[j1:j2]]
    return found
