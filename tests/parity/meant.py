"""The differences from prefork that are meant, each with its reason. The README's section is made of them."""

from __future__ import annotations

import dataclasses

__all__ = ["MEANT", "Meant", "table"]


@dataclasses.dataclass(frozen=True)
class Meant:
    """A difference: lines of these scenarios that match may differ.

    Attributes:
        what: In one line, for the README.
        prefork: What prefork does.
        ours: What we do.
        scenario: A pattern for the scenario's name; empty where a test of its own shows it.
        lines: A pattern for the lines, searched for.
        sides: Ours on which it shows.
    """

    what: str
    prefork: str
    ours: str
    scenario: str = ""
    lines: str = ""
    sides: tuple[str, ...] = ("async", "threads")


MEANT = [
    Meant(
        what="A task that takes its process with it",
        prefork="the process was the task's own: `WorkerLostError` with its exit code, no `task_postrun`",
        ours="the process is that of all tasks; a `SystemExit` ends its own task only: `WorkerLostError` that says so, "
        "after `task_postrun`. A process that dies takes all of its tasks along; the broker delivers them again",
        scenario="acks: the task ends by lost",
        lines=r"WorkerLostError|signals .* task_postrun .* state=None",
    ),
    Meant(
        what="`SystemExit` in a task",
        prefork="the task stays pending for ever (its worker process ends well, and the failure cannot be stored)",
        ours="`FAILURE` with a `WorkerLostError`",
        scenario="a body that raises SystemExit",
        lines=r"^(events|result|signals parity\.quits) a",
    ),
    Meant(
        what="`link_error` of a task past its hard limit",
        prefork="called twice",
        ours="called once, as for any failure; nor does what a hook or a signal raises after an outcome call errbacks "
        "again, or change it",
        scenario="errback of a task past its hard limit",
        lines=r"errback",
        sides=("async",),
    ),
    Meant(
        what="A retry that cannot be encoded",
        prefork="the task stays pending for ever",
        ours="`FAILURE` with that error",
    ),
    Meant(
        what="Stopping a `def` task",
        prefork="its process is killed, or gets a signal for the soft limit",
        ours="it runs on a thread, which nothing can stop: a hard limit and a revoke with `terminate` are reported at "
        "once, the thread keeps its slot until it returns, and what it returns is ignored; a soft limit has no effect",
    ),
    Meant(
        what="`signal.signal` and `multiprocessing` in a `def` task",
        prefork="work (daemonic processes may have no children)",
        ours="`signal.signal` raises `ValueError`, since a task is not on the main thread; a process that is started "
        "by fork can hang on the lock of another thread, which the log says once: use the context "
        "`spawn` or `forkserver`",
    ),
    Meant(
        what="A task that swallows its cancellation",
        prefork="killed all the same",
        ours="reported at once, and kept as a zombie, named in the log with its stack; it keeps its slot until it ends",
    ),
    Meant(
        what="`terminate` with a signal",
        prefork="the process gets that signal",
        ours="the coroutine is cancelled, whatever the signal",
    ),
    Meant(
        what="Remote control during a warm shutdown",
        prefork="gone",
        ours="answers until the last task has ended: `inspect`, `asyncworker top` and `revoke` work, anything else is "
        "refused; a worker that starts meanwhile learns from it what was revoked",
    ),
    Meant(
        what="`revoke` with `terminate` after a lost connection",
        prefork="does not find what runs",
        ours="finds it",
    ),
    Meant(
        what="A warm shutdown that takes long",
        prefork="waits for ever",
        ours="after `ASYNCWORKER_DRAIN_TIMEOUT_S` what still runs is cancelled; late-ack tasks return to the queue, "
        "others fail with `WorkerLostError`, unless a task blocks the loop: it stores nothing then",
    ),
    Meant(
        what="SIGQUIT, a cold shutdown",
        prefork="late-ack tasks return to the queue; the others stay in state `RETRY` though nobody retries them",
        ours="late-ack tasks return to the queue; the others fail with `WorkerLostError`",
    ),
    Meant(
        what="A signal while the broker connection is in use",
        prefork="its handler uses the same connection again, and may wait for itself for ever",
        ours="the signal is noted; the shutdown, its soft part and `worker_shutting_down` follow from the main loop",
    ),
    Meant(
        what="SIGQUIT again",
        prefork="cancels once more, and waits on; the third time ends the worker by an exception",
        ours="the second time waits for nothing, neither the soft shutdown nor what was cancelled; the third time, "
        "and a broker that does not answer for half a minute more than the grace, end the process with exit code 1",
    ),
    Meant(
        what="Memory, globals, crashes",
        prefork="a process a task at a time",
        ours="shared by all tasks of the process; `worker_max_tasks_per_child`, `worker_max_memory_per_child`"
        " and their options recycle whole workers with `--processes N`, as `--max-tasks` and `--max-"
        "memory-mb` do; without it the options are refused. A setting of Celery's that has no effect "
        "here is named in the log when a worker starts",
    ),
]


def table() -> str:
    """Return the README's table."""
    rows = [f"| {rule.what} | {rule.prefork} | {rule.ours} |" for rule in MEANT]
    return "\n".join(["| | prefork | asyncworker |", "|---|---|---|", *rows]) + "\n"
