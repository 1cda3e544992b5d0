"""Sums and gauges in memory: any room adds, ``metrics`` alone reads and sends.

An event costs a lock and an addition; what is sent, and how often, is not the adder's affair. Where nothing is sent,
nothing has to be counted that costs more than that: ask :func:`are_read`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

__all__ = [
    "Counter",
    "Kind",
    "Labels",
    "Sample",
    "Summary",
    "are_read",
    "collect_with",
    "counter",
    "read_from_now_on",
    "samples",
    "summary",
]

logger = logging.getLogger(__name__)

Kind = Literal["counter", "gauge"]
Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One number, now. A counter's is its sum since the process began."""

    name: str
    kind: Kind
    labels: Labels
    value: float


class Counter:
    """A sum that only grows; added to from any thread."""

    __slots__ = ("_lock", "labels", "name", "value")

    def __init__(self, name: str, labels: Labels) -> None:
        self.name = name
        self.labels = labels
        self.value: float = 0
        self._lock = threading.Lock()

    def add(self, amount: float = 1) -> None:
        """Add to the sum."""
        # Reading, adding and writing are three steps, between which another thread may do the same.
        with self._lock:
            self.value += amount


class Summary:
    """How often, and how long all together; added to from any thread."""

    __slots__ = ("_lock", "count", "labels", "name", "total_s")

    def __init__(self, name: str, labels: Labels) -> None:
        self.name = name
        self.labels = labels
        self.count = 0
        self.total_s = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Add one that took so long."""
        with self._lock:
            self.count += 1
            self.total_s += seconds


_counters: dict[tuple[str, Labels], Counter] = {}
_summaries: dict[tuple[str, Labels], Summary] = {}
_collectors: dict[str, Callable[[], Iterable[Sample]]] = {}
#: Names whose failure is in the log.
_reported: set[str] = set()
_making = threading.Lock()
_read = False


def counter(name: str, **labels: str) -> Counter:
    """Return the counter of that name and those labels; keep it where it is added to often."""
    key = (name, tuple(labels.items()))
    with _making:
        return _counters.setdefault(key, Counter(*key))


def summary(name: str, **labels: str) -> Summary:
    """Return the summary of that name and those labels."""
    key = (name, tuple(labels.items()))
    with _making:
        return _summaries.setdefault(key, Summary(*key))


def collect_with(name: str, collect: Callable[[], Iterable[Sample]]) -> None:
    """Have a function asked for samples whenever they are read; another one of the same name is replaced.

    It is called on a thread of the reader's.
    """
    _collectors[name] = collect


def read_from_now_on() -> None:
    """Take that somebody reads: what costs more is counted too."""
    global _read
    _read = True


def are_read() -> bool:
    """Tell whether anybody reads."""
    return _read


def samples() -> list[Sample]:
    """Return every number, as it is now.

    A collector whose objects change meanwhile is asked again. Samples of one name and the same labels are summed.
    """
    with _making:
        found = [Sample(each.name, "counter", each.labels, each.value) for each in _counters.values()]
        for one in _summaries.values():
            found.append(Sample(f"{one.name}.count", "counter", one.labels, one.count))
            found.append(Sample(f"{one.name}.seconds", "counter", one.labels, one.total_s))
    for name, collect in list(_collectors.items()):
        found.extend(_collected(name, collect))
    sums: dict[tuple[str, Kind, Labels], float] = {}
    for sample in found:
        try:
            key = (sample.name, sample.kind, _sendable(sample.labels))
            sums[key] = sums.get(key, 0) + float(sample.value)
        except (TypeError, ValueError):  # no number
            _report(sample.name)
    return [Sample(name, kind, labels, value) for (name, kind, labels), value in sums.items()]


def _collected(name: str, collect: Callable[[], Iterable[Sample]]) -> list[Sample]:
    """Return a collector's samples; none, and a line in the log the first time, where it fails."""
    for _ in range(3):
        try:
            found = list(collect())
        except RuntimeError:  # a set or dictionary that has changed its size
            continue
        except Exception:  # its numbers are missing; the others are not less true
            _report(name)
            return []
        _reported.discard(name)
        return found
    return []


def _report(name: str) -> None:
    """Log the exception that is being handled: once, not once a second."""
    if name not in _reported:
        _reported.add(name)
        logger.exception("metrics could not be collected: %s", name)


def _sendable(labels: Labels) -> Labels:
    """Escape what no exporter can send in a label: half a surrogate pair, as in a name that is not UTF-8."""
    if all(type(value) is str and value.isascii() for _, value in labels):
        return labels
    return tuple((label, str(value).encode(errors="backslashreplace").decode()) for label, value in labels)
