"""Times of a chaos run: short enough that what takes an hour in production happens within seconds."""

from __future__ import annotations

__all__ = ["BROKER_VARIABLE", "CONCURRENCY", "FENCED_AFTER_S", "LEASE_S", "LONG_S", "ITEMS", "SILENT_S", "VISIBILITY_S"]

LEASE_S = 3.0
#: A lease is looked at each third of ``LEASE_S``; a busy machine is given two seconds more.
FENCED_AFTER_S = LEASE_S * 4 / 3 + 2.0
#: Redis gives a message back that was not acknowledged for so long: a long task has its lease by then.
VISIBILITY_S = 6.0
#: Longer than the visibility timeout, and the next look of the broker at it.
LONG_S = 9.0
#: A holder that was silent for so long may be taken over: its last renewal may be a third of a lease old.
SILENT_S = LEASE_S * 2 / 3 - 0.3
#: Of a fan-out.
CONCURRENCY = 5
#: Items of a fan-out.
ITEMS = 150
#: Which broker it is, in the environment of every worker.
BROKER_VARIABLE = "CHAOS_HISTORY_BROKER"
