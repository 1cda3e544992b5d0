"""Instrumentation that hooks Celery's own tracer sees our async tasks: each, with its name and its true length."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers.worker import Worker

TASKS = 60
FAILING = 10
SLEEP_S = 0.5


def run_tasks(worker: Callable[..., Worker], client: Celery, seen: Path, by: str) -> list[str]:
    """Run tasks all at once, some of which fail, under instrumentation; return the ids of those that sleep."""
    env = {"TRACED_BY": by, "TRACED_FILE": str(seen)}
    node = worker(None, "--without-mingle", "--without-gossip", app="tests.integration.traced_tasks", env=env)
    sleeping = [client.send_task("traced.sleep", (number, SLEEP_S)) for number in range(TASKS)]
    failing = [client.send_task("traced.fail", (number,)) for number in range(FAILING)]
    assert [result.get(timeout=120) for result in sleeping] == list(range(TASKS))
    for result in failing:
        # Not raised: the traceback would keep the result beyond the broker's end, which it would look for then.
        assert isinstance(result.get(timeout=120, propagate=False), ValueError)
    assert node.stop() == 0
    return [result.id for result in sleeping]


def lines(seen: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in seen.read_text().splitlines()]


def assert_overlap(spans: list[tuple[float, float]]) -> None:
    """They ran at the same time: one after the other they would have taken as long as all together."""
    whole_s = max(end for _, end in spans) - min(start for start, _ in spans)
    assert sum(end - start for start, end in spans) > 2 * whole_s


@pytest.mark.promise("celerys-tracer-runs-every-task")
def test_opentelemetry(worker: Callable[..., Worker], client: Celery, tmp_path: Path) -> None:
    seen = tmp_path / "spans.jsonl"
    ids = run_tasks(worker, client, seen, "otel")
    spans = lines(seen)
    runs = [span for span in spans if span["name"] == "run/traced.sleep"]
    assert sorted(span["attributes"]["messaging.message.id"] for span in runs) == sorted(ids)
    lengths = [(span["start_ns"] / 1e9, span["end_ns"] / 1e9) for span in runs]
    assert all(end - start >= SLEEP_S for start, end in lengths)
    assert_overlap(lengths)
    # What the body traces hangs under the span of its own task.
    inside = [span for span in spans if span["name"].startswith("inside")]
    parents = {span["parent_id"] for span in inside}
    assert len(inside) == TASKS
    assert parents == {span["context"]["span_id"] for span in runs}
    failed = [span for span in spans if span["name"] == "run/traced.fail"]
    assert [span["status"]["status_code"] for span in failed] == ["ERROR"] * FAILING
    assert sorted(span["events"][0]["attributes"]["exception.message"] for span in failed) == sorted(
        f"number {number}" for number in range(FAILING)
    )


@pytest.mark.promise("celerys-tracer-runs-every-task")
def test_sentry(worker: Callable[..., Worker], client: Celery, tmp_path: Path) -> None:
    seen = tmp_path / "sentry.jsonl"
    ids = run_tasks(worker, client, seen, "sentry")
    events = lines(seen)
    transactions = [event for event in events if event.get("transaction") == "traced.sleep" and "spans" in event]
    assert sorted(event["extra"]["celery-job"]["task_name"] for event in transactions) == ["traced.sleep"] * TASKS
    assert sorted(event["tags"]["celery_task_id"] for event in transactions) == sorted(ids)
    lengths = [(_seconds(event["start_timestamp"]), _seconds(event["timestamp"])) for event in transactions]
    assert all(end - start >= SLEEP_S for start, end in lengths)
    assert_overlap(lengths)
    inside = [[span["description"] for span in event["spans"] if span["op"] == "test"] for event in transactions]
    assert sorted(inside) == sorted([f"inside {number}"] for number in range(TASKS))
    errors = [event["exception"]["values"][-1] for event in events if "exception" in event]
    assert sorted(error["value"] for error in errors) == sorted(f"number {number}" for number in range(FAILING))
    assert {error["type"] for error in errors} == {"ValueError"}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
