"""What counting an event costs whoever counts it: ``python benchmarks/metrics.py --help``.

Ours adds to a sum in memory, which a thread sends once a second; while it is measured here, that thread sends to a UDP
port, and that the sums arrive exactly is checked. The clients of statsd and of Prometheus are called once an event, as
their manuals show it. The competitors take turns; the table shows medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

import prometheus_client
import statsd
from rich.console import Console

from asyncworker.counters import counter, summary
from asyncworker.metrics.statsd import StatsdSender
from benchmarks.report import Measured, print_table, write_json
from tests.servers.statsd import running_statsd

OURS = "asyncworker, Counter.add"

console = Console() if sys.stdout.isatty() else Console(width=140)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, metavar="N", help="events a round (1000000; quick: 100000)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    given.events = given.events or (100_000 if given.quick else 1_000_000)
    given.rounds = given.rounds or (3 if given.quick else 5)
    return given


def measure(event: Callable[[], object], count: int) -> float:
    """Return events a second of this thread's own processor time: what others do meanwhile is not their cost."""
    begun = time.thread_time()
    for _ in range(count):
        event()
    return count / (time.thread_time() - begun)


def main() -> None:
    """Measure and print."""
    given = arguments()
    with running_statsd() as server:
        sender = StatsdSender("127.0.0.1", server.port, "bench")
        sender.start()
        ours, timed = counter("bench.events"), summary("bench.took")
        client = statsd.StatsClient("127.0.0.1", server.port, "peer")
        page = prometheus_client.Counter("bench_events", "events", registry=prometheus_client.CollectorRegistry())
        competitors: dict[str, Callable[[], object]] = {
            OURS: ours.add,
            "asyncworker, Summary.add": lambda: timed.add(0.1),
            "prometheus_client, Counter.inc": page.inc,
            "statsd, incr": lambda: client.incr("events"),
        }
        rows = {
            name: Measured(name, "events_per_cpu_s", "events/CPU s", f"{given.events:,} events") for name in competitors
        }
        for _ in range(given.rounds):
            for name, event in competitors.items():
                # A system call an event: a tenth of them is enough.
                rows[name].values.append(measure(event, given.events // (10 if name.startswith("statsd") else 1)))
        sender.stop(60)
        server.wait_until(lambda: server.counters["bench.bench.events"] == given.events * given.rounds)
        assert server.counters["bench.bench.took.count"] == given.events * given.rounds
    print_table("counting an event", list(rows.values()), OURS, console)
    for name, row in rows.items():
        console.print(f"{name}: {1e6 / row.median:.3f} us an event")
    if given.json:
        write_json(given.json, list(rows.values()))


if __name__ == "__main__":
    main()
