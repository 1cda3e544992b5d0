"""Count tasks: which began, how they ended, how long they took. On the main thread."""

from __future__ import annotations

from asyncworker.counters import Counter, Summary, counter, summary
from asyncworker.worker.job import Job

__all__ = ["began", "ended"]

_starts: dict[str, Counter] = {}
_ends: dict[tuple[str, bool], Counter] = {}
_durations: dict[str, Summary] = {}


def began(job: Job) -> None:
    """Count a task that begins."""
    found = _starts.get(job.name)
    if found is None:
        found = _starts[job.name] = counter("ti.start", task=job.name)
    found.add()


def ended(job: Job) -> None:
    """Count a task whose code has ended."""
    if not job.started:
        return
    key = (job.name, job.succeeded and not job.abandoned)
    found = _ends.get(key)
    if found is None:
        state = "success" if key[1] else "other"
        found = _ends[key] = counter("ti.finish", task=job.name, state=state)
        _durations[job.name] = summary("task.duration", task=job.name)
    found.add()
    _durations[job.name].add(job.age_s)
