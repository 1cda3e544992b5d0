"""Writes deploy/statsd/mapping.yaml from the table of metrics: ``python -m tests.deploy.mapping``."""

from __future__ import annotations

from asyncworker.metrics.names import full_names
from tests.deploy.tools import DEPLOY

__all__ = ["MAPPING", "mapping", "prometheus_names"]

MAPPING = DEPLOY / "statsd" / "mapping.yaml"

_HEAD = """\
# How what the workers send to statsd becomes what their own page for Prometheus shows. Made by
# python -m tests.deploy.mapping; it takes ASYNCWORKER_STATSD_PREFIX=asyncworker.{node}.
mappings:
"""


def prometheus_names() -> dict[str, str]:
    """The names of all metrics, as they are sent without their prefix, with those that Prometheus knows."""
    return {
        name: f"asyncworker_{name.replace('.', '_')}" + ("" if metric.kind == "gauge" else "_total")
        for name, metric in full_names().items()
    }


def mapping() -> str:
    """Return the file's text."""
    shown = prometheus_names()
    text = _HEAD
    for name, metric in full_names().items():
        labels = {"worker": "$1"} | {label: f"${number}" for number, label in enumerate(metric.labels, 2)}
        text += f'  - match: "asyncworker.*.{name}{".*" * len(metric.labels)}"\n    name: {shown[name]}\n'
        if metric.kind == "gauge":  # that of a worker that is gone must not stand for ever
            text += "    ttl: 5m\n"
        text += "    labels: {" + ", ".join(f'{label}: "{value}"' for label, value in labels.items()) + "}\n"
    return text


if __name__ == "__main__":
    MAPPING.write_text(mapping())
