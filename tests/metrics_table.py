"""The README's table of metrics, made from metrics/names.py; ``python -m tests.metrics_table`` writes it there."""

from __future__ import annotations

from asyncworker.metrics.names import METRICS
from tests.settings_table import README

BEGIN = "<!-- metrics: python -m tests.metrics_table -->\n"
END = "<!-- end of metrics -->\n"


def table() -> str:
    rows = ["| name | type | unit | meaning | Airflow's |", "|---|---|---|---|---|"]
    for metric in METRICS:
        name = ".".join(["asyncworker", metric.name, *(f"<{label}>" for label in metric.labels)])
        kind = "counters `.count`, `.seconds`" if metric.kind == "summary" else metric.kind
        airflow = f"`{metric.airflow}`" if metric.airflow else ""
        rows.append(f"| `{name}` | {kind} | {metric.unit} | {metric.meaning} | {airflow} |")
    return "\n".join(rows) + "\n"


def written() -> str:
    """Return the table that the README holds."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, begin, rest = README.read_text().partition(BEGIN)
    README.write_text(before + begin + table() + END + rest.partition(END)[2])
