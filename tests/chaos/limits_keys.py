"""Very many keys of one cluster-wide limit in several processes: ``python -m tests.chaos.limits_keys --keys 100000``.

Each process uses each key, so that all permits of all keys are held at once while as many others wait for them; they
are kept past a lease, given back, and taken by those who wait. An observer on a Redis of its own counts the holders of
each key: the script that counts one more checks that these are no more than the permits, and this process reads all
counts again and again. No permit may be lost while Redis is well.

The lag of each event loop is printed twice: as it was, and without the time in which the process was ready to run and
other programs had the cores. The exit status is 1 for too many holders, an error, or a key that was not used; with
``--max-lag-ms`` also for a loop whose own lag was longer.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asyncworker.processes import Child
from tests.chaos import key_holders
from tests.chaos.key_holders import COUNTS, EXCESS, LET_GO, MOST, RENEWED, Plan, Report
from tests.servers.valkey import running_valkey

__all__ = ["Outcome", "run"]

ROOT = Path(__file__).parents[2]
POLL_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        most: The most holders that a key had at once.
        excess: Keys that had too many, as text.
        left: Keys that had holders at the end.
        connections: Of all processes to the Redis of the limit, while everything was held.
        calls: Of scripts there.
        seconds: From the first process' start to the last one's end.
        reports: Of each process.
    """

    most: int
    excess: Sequence[str]
    left: int
    connections: int
    calls: int
    seconds: float
    reports: Sequence[Report]

    @property
    def errors(self) -> dict[str, int]:
        """How many uses ended in an error, by its type."""
        names = {name for report in self.reports for name in report.errors}
        return {name: sum(report.errors.get(name, 0) for report in self.reports) for name in sorted(names)}


def run(folder: Path, *, keys: int, processes: int, permits: int, lease_s: float, give_up_s: float) -> Outcome:
    """Run it once.

    Raises:
        TimeoutError: It did not come to its end; has what the processes said.
    """
    with contextlib.ExitStack() as stack:
        limits, observer = (
            stack.enter_context(running_valkey(folder / name, {"appendonly": "no"})) for name in ("limits", "observer")
        )
        plan = Plan(limits.url(), observer.url(), keys, permits, lease_s)
        command = [sys.executable, "-m", key_holders.__name__, msgspec.json.encode(plan).decode()]
        observed, limited = stack.enter_context(observer.connect()), stack.enter_context(limits.connect())
        began_s = time.monotonic()
        children = [
            stack.enter_context(
                Child(
                    command,
                    log=folder / f"process-{number}.log",
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    cwd=ROOT,
                )
            )
            for number in range(processes)
        ]
        most, connections = 0, 0
        while any(child.returncode is None for child in children):
            most = max([most, *map(int, observed.hvals(COUNTS))])  # type: ignore[arg-type]
            if not connections and int(observed.get(RENEWED) or 0) == processes:  # type: ignore[arg-type]
                connections = int(limited.info("clients")["connected_clients"]) - 1  # type: ignore[index]
                observed.set(LET_GO, 1)
            if time.monotonic() > began_s + give_up_s or any(child.returncode for child in children):
                raise TimeoutError("\n".join(child.log() for child in children))
            time.sleep(POLL_S)
        return Outcome(
            most=max(most, int(observed.get(MOST) or 0)),  # type: ignore[arg-type]
            excess=[each.decode() for each in observed.lrange(EXCESS, 0, 9)],  # type: ignore[union-attr]
            left=sum(int(count) != 0 for count in observed.hvals(COUNTS)),  # type: ignore[union-attr]
            connections=connections,
            calls=int(limited.info("commandstats")["cmdstat_evalsha"]["calls"]),  # type: ignore[index]
            seconds=time.monotonic() - began_s,
            reports=[msgspec.json.decode(child.log().splitlines()[-1], type=Report) for child in children],
        )


def main() -> int:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--permits", type=int, default=2, help="of each key; fewer than processes, so that some wait")
    parser.add_argument("--lease-s", type=float, default=15.0)
    parser.add_argument("--give-up-s", type=float, default=3600.0)
    parser.add_argument("--max-lag-ms", type=float, default=0.0, help="of each loop, without waits for a core; 0: any")
    given = parser.parse_args()
    if not 0 < given.permits <= given.processes:
        parser.error("--permits: at least 1, and no more than --processes: else no key is ever full")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="limits-") as folder:
        outcome = run(
            Path(folder),
            keys=given.keys,
            processes=given.processes,
            permits=given.permits,
            lease_s=given.lease_s,
            give_up_s=given.give_up_s,
        )
    uses = given.keys * given.processes
    print(f"{given.keys:,} keys of one limit, {given.permits} permits each, {given.processes} processes; ", end="")
    print(f"{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    print(f"most holders of a key at once: {outcome.most}; keys with too many: {list(outcome.excess) or 'none'}")
    print(f"errors: {outcome.errors or 'none'}; connections to the limit's Redis: {outcome.connections}")
    print(f"{uses:,} uses in {outcome.seconds:.0f} s; calls of scripts a use: {outcome.calls / uses:.2f}")
    for number, each in enumerate(outcome.reports):
        print(
            f"process {number}: {each.entered:,} uses; lag of the loop at most {1e3 * each.lag_s[0]:.0f} ms "
            f"(99 %: {1e3 * each.lag_s[1]:.0f}), its own {1e3 * each.own_lag_s[0]:.0f} (99 %: "
            f"{1e3 * each.own_lag_s[1]:.0f})"
        )
    worst_ms = 1e3 * max(report.own_lag_s[0] for report in outcome.reports)
    used = all(report.entered == given.keys for report in outcome.reports)
    wrong = outcome.excess or outcome.errors or outcome.left or outcome.most != given.permits or not used
    return 1 if wrong or (given.max_lag_ms and worst_ms > given.max_lag_ms) else 0


if __name__ == "__main__":
    sys.exit(main())
