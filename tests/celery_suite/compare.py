"""Compare the sides: what passes on one and not on another has to be explained."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from tests.celery_suite.explained import EXPLAINED, Explained
from tests.celery_suite.runner import Outcome

__all__ = ["Difference", "compare"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A test that ends otherwise on one of our sides than under prefork."""

    test: str
    side: str
    prefork: Outcome
    ours: Outcome
    explained: Explained | None


def compare(outcomes: Mapping[str, Mapping[str, Outcome]], broker: str) -> list[Difference]:
    """Return every difference from prefork; a test that is missing on a side differs, too."""
    prefork = outcomes["prefork"]
    found = []
    for side, ours in outcomes.items():
        for test in sorted(prefork.keys() | ours.keys()):
            before, after = prefork.get(test, _MISSING), ours.get(test, _MISSING)
            if before.word != after.word:
                found.append(Difference(test, side, before, after, _explanation(test, side, broker, before, after)))
    return found


_MISSING = Outcome("missing")


def _explanation(test: str, side: str, broker: str, prefork: Outcome, ours: Outcome) -> Explained | None:
    why = ours.why or prefork.why
    for rule in EXPLAINED:
        fits = re.search(rule.test, test) and re.search(rule.why, why) and ours.word in rule.outcomes
        if fits and side in rule.sides and broker in rule.brokers:
            return rule
    return None
