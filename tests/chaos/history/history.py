"""What is known of a chaos run when it is over: executions, signs of life, what was accepted, what came of it."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.history.log import Line
from tests.chaos.history.plan import HARMS

__all__ = ["BROKER_HARMS", "Execution", "History", "Outcome"]

#: Lines after which a process is no more; the first of them counts.
_DEATHS = frozenset({"killed", "crashed", "stuck"})
#: A process that shows no sign of life for so long was frozen, or starved.
BREAK_S = 0.7
#: Lines of harm that hits the connections of all workers.
BROKER_HARMS = frozenset({"disconnect", "restart", "crash", "refuse", "up"})


@dataclass(frozen=True)
class Execution:
    """One execution of a task, or of an item."""

    token: str
    task_id: str
    kind: str
    index: int
    pid: int
    begun_at_s: float
    left_at_s: float
    """When it returned, was cancelled, or its process was killed; infinite where it did none of these."""
    how: str
    """``end``, ``cut``, ``killed``, or ``open``."""

    def runs_at(self, at_s: float) -> bool:
        return self.begun_at_s <= at_s < self.left_at_s


@dataclass(frozen=True)
class Outcome:
    """What the result backend has of a task."""

    status: str
    token: str = ""
    """Of the execution whose result was stored."""
    text: str = ""


@dataclass
class History:
    """One run.

    Attributes:
        sent_at_s: When each task was accepted, by id; and its kind.
        executions: Those of each task, in the order of their beginnings.
        deaths: When each process was killed.
        harms: What was done, how often.
        crashes: Workers that ended by themselves, or did not end when they were told to.
        broker_harms: When something was done to the broker.
        signs: Signs of life of each process.
        outcomes: What the result backend has, by task id.
        items: For each fan-out the tokens that the store has, by index.
        left: How many messages the broker holds in the end.
        told: What it says of them.
        loses_on_its_way: See ``Broker``.
        given_away_at_s: Tasks whose message the broker gave away for the last time, and nobody has had, as its own log
            shows: by id, when that was, to the second.
        redis: The broker confirms acknowledgements, and gives back what it waits too long for.
    """

    loses_on_its_way: bool = False
    redis: bool = False
    sent_at_s: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    executions: dict[str, list[Execution]] = field(default_factory=dict)
    deaths: dict[int, float] = field(default_factory=dict)
    harms: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    broker_harms: list[float] = field(default_factory=list)
    signs: dict[int, list[float]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    items: dict[str, dict[int, str]] = field(default_factory=dict)
    left: int = 0
    told: str = ""
    given_away_at_s: dict[str, float] = field(default_factory=dict)

    def harmed_between(self, start_s: float, end_s: float) -> bool:
        """Tell whether something was done to the broker in that time."""
        return any(start_s <= at_s <= end_s for at_s in self.broker_harms)

    def silence_s(self, pid: int, start_s: float, end_s: float) -> float:
        """Return the longest time between two signs of life of a process, of which a part lies in that time."""
        signs = self.signs.get(pid, [])
        first = max(bisect_right(signs, start_s) - 1, 0)
        longest = 0.0
        for before, after in zip(signs[first:], [*signs[first + 1 :], math.inf], strict=True):
            if before > end_s:
                break
            longest = max(longest, min(after, end_s) - before)
        return longest

    def awake_at_s(self, pid: int, start_s: float, for_s: float) -> float:
        """Return when a process has lived for so long without a break; a break begins the time anew."""
        at_s = start_s
        for before, after in itertools.pairwise(self.signs.get(pid, [])):
            if after - before > BREAK_S and after > at_s and before < at_s + for_s:
                at_s = after
        return at_s + for_s

    def add_lines(self, lines: Iterable[Line]) -> None:
        """Take the log's lines."""
        begun: dict[str, Line] = {}
        ended: dict[str, Line] = {}
        signs = defaultdict(list)
        for line in lines:
            match line.event:
                case "begin":
                    begun[line.token] = line
                case "end" | "cut":
                    ended[line.token] = line
                case "sent":
                    self.sent_at_s[line.task_id] = line.at_s
                    self.kinds[line.task_id] = line.kind
                case "refused":
                    self.refused += 1
                case event if event in BROKER_HARMS:
                    self.broker_harms.append(line.at_s)
                case event if event in _DEATHS:
                    self.deaths.setdefault(line.pid, line.at_s)
                    if event != "killed":
                        self.crashes.append(f"worker {line.pid} {event}")
            if line.event in HARMS:
                self.harms[line.event] += 1
            if line.event in ("begin", "end", "cut", "pulse"):
                signs[line.pid].append(line.at_s)
        self.signs = {pid: sorted(times) for pid, times in signs.items()}
        for line in sorted(begun.values(), key=lambda each: each.at_s):
            self.executions.setdefault(line.task_id, []).append(self._execution(line, ended.get(line.token)))

    def _execution(self, begin: Line, end: Line | None) -> Execution:
        left_at_s, how = math.inf, "open"
        if end is not None:
            left_at_s, how = end.at_s, end.event
        elif begin.pid in self.deaths:
            left_at_s, how = self.deaths[begin.pid], "killed"
        return Execution(begin.token, begin.task_id, begin.kind, begin.index, begin.pid, begin.at_s, left_at_s, how)
