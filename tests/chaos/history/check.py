"""The checker: was what was accepted done, by nobody twice at once, and is every repetition one that is documented?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from celery import states

from tests.chaos.history.fences import check_fan_out
from tests.chaos.history.history import Execution, History
from tests.chaos.history.settings import FENCED_AFTER_S, LEASE_S, SILENT_S, VISIBILITY_S

__all__ = ["LATE_KINDS", "Report", "check"]

#: Kinds of tasks whose message is acknowledged when they have ended: none of them may be lost.
LATE_KINDS = ("late", "late_sync", "long", "fan_out")


@dataclass
class Report:
    """What was found.

    Attributes:
        rows: What was counted, by kind of task and name.
        violations: What may not happen, one a line.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def count(self, kind: str, what: str, number: int = 1) -> None:
        self.rows.setdefault(kind, Counter())[what] += number

    def violate(self, history: History, task_id: str, what: str) -> None:
        told = "; ".join(_told(each, history) for each in history.executions.get(task_id, [])[:8])
        self.violations.append(f"{history.kinds.get(task_id)} {task_id}: {what} [{told}]")

    def total(self, what: str) -> int:
        return sum(row[what] for row in self.rows.values())


def check(history: History) -> Report:
    """Check a run."""
    report = Report()
    for task_id, kind in history.kinds.items():
        report.count(kind, "accepted")
        _check_done(history, task_id, kind, report)
        if kind == "fan_out":
            check_fan_out(history, task_id, report)
        else:
            _check_repeated(history, task_id, kind, report)
    # One message for each connection that ended with its reader, at the most.
    endings = len(history.deaths) + len(history.broker_harms) * max(1, len(history.signs))
    if report.total(ON_ITS_WAY) > endings:
        report.violations.append(f"{report.total(ON_ITS_WAY)} were lost on their way, by {endings} connections")
    report.violations += history.crashes
    if history.left:
        report.violations.append(f"the broker still holds {history.left} messages: {history.told}")
    return report


#: How long an outcome may take to be stored, on a busy machine.
STORED_S = 2.0

#: How long a worker may be frozen, and be killed then.
LONGEST_FREEZE_S = 3 * LEASE_S

#: Columns of the report.
ON_ITS_WAY = "lost on its way"
CUT_SHORT = "again: worker killed"
FROZEN = "again: worker frozen"
OUTAGE = "again: broker or connection"
VISIBLE = "again: visibility timeout"
BEFORE_LEASE = "at once: before the lease"
TAKEN_OVER = "at once: silent holder back"


def _check_done(history: History, task_id: str, kind: str, report: Report) -> None:
    outcome = history.outcomes.get(task_id)
    executions = history.executions.get(task_id, [])
    if outcome is not None and outcome.status == "SUCCESS":
        report.count(kind, "done")
        if kind != "fan_out" and not any(each.token == outcome.token and each.how == "end" for each in executions):
            report.violate(history, task_id, f"its result is of no execution that returned: {outcome.token!r}")
        return
    if outcome is not None and outcome.status in states.READY_STATES:
        report.violate(history, task_id, f"ended as {outcome.status}: {outcome.text}")
        return
    sent_at_s = history.sent_at_s[task_id]
    if history.loses_on_its_way and _lost_on_its_way(history, task_id):
        report.count(kind, ON_ITS_WAY)
    elif kind in LATE_KINDS:
        report.violate(history, task_id, "was accepted and is lost")
    elif not executions and _harmed(history, sent_at_s):
        report.count(kind, "lost before it began")
    elif executions and (executions[-1].how == "killed" or _killed_before_it_was_stored(history, executions[-1])):
        report.count(kind, "lost with its worker")
    else:
        report.violate(history, task_id, "is lost, and nothing had happened to its worker")


def _killed_before_it_was_stored(history: History, execution: Execution) -> bool:
    """Tell whether its worker was killed just after it had ended, or while the backend was away."""
    death_s = history.deaths.get(execution.pid)
    if death_s is None or execution.how != "end":
        return False
    return death_s - execution.left_at_s < STORED_S or history.harmed_between(execution.left_at_s, death_s)


def _lost_on_its_way(history: History, task_id: str) -> bool:
    """Tell whether the broker's log shows that it gave the message away to a worker, whose connection then ended.

    The worker may have been frozen when it came, and killed in the end.
    """
    at_s = history.given_away_at_s.get(task_id)
    if at_s is None:
        return False
    ends_s = [*history.deaths.values(), *history.broker_harms]
    return any(at_s - 1 <= end_s <= at_s + 1 + LONGEST_FREEZE_S for end_s in ends_s)


def _harmed(history: History, since_s: float) -> bool:
    return any(at_s >= since_s for at_s in [*history.deaths.values(), *history.broker_harms])


def _check_repeated(history: History, task_id: str, kind: str, report: Report) -> None:
    executions = history.executions.get(task_id, [])
    for number, later in enumerate(executions):
        for earlier in executions[:number]:
            if kind == "long" and earlier.runs_at(later.begun_at_s):
                _check_at_once(history, earlier, later, report)
        if number:
            reason = _why_again(history, executions[number - 1], later)
            if reason is None or (kind == "early" and not _early_again(history, executions[number - 1], reason)):
                report.violate(history, task_id, f"was executed again without a reason ({reason})")
            else:
                report.count(kind, reason)


def _check_at_once(history: History, earlier: Execution, later: Execution, report: Report) -> None:
    if later.begun_at_s < history.awake_at_s(earlier.pid, earlier.begun_at_s, FENCED_AFTER_S):
        report.count(earlier.kind, BEFORE_LEASE)
        return
    if history.silence_s(earlier.pid, earlier.begun_at_s, later.begun_at_s) < SILENT_S:
        report.violate(history, earlier.task_id, "was run by two at once")
        return
    report.count(earlier.kind, TAKEN_OVER)
    outcome = history.outcomes.get(earlier.task_id)
    if outcome is not None and outcome.token == earlier.token:
        report.violate(history, earlier.task_id, "the outcome of a holder that was taken over was stored")


def _why_again(history: History, earlier: Execution, later: Execution) -> str | None:
    """Say why a task was executed again, for the most telling of the reasons that there are."""
    since_s, until_s = history.sent_at_s.get(earlier.task_id, earlier.begun_at_s), later.begun_at_s
    if earlier.kind == "early" and history.harmed_between(since_s, earlier.begun_at_s):
        return OUTAGE  # its acknowledgement was lost with the connection, whatever came of its worker
    death_s = history.deaths.get(earlier.pid)
    if death_s is not None and earlier.begun_at_s <= death_s <= until_s:
        return CUT_SHORT
    if history.harmed_between(since_s, until_s):
        return OUTAGE
    if history.silence_s(earlier.pid, since_s, until_s) >= VISIBILITY_S / 2:
        return FROZEN
    if min(earlier.left_at_s, until_s) - since_s >= VISIBILITY_S and history.redis:
        return VISIBLE
    return None


def _early_again(history: History, earlier: Execution, reason: str) -> bool:
    """Tell whether that is a reason for a task that is acknowledged before it begins.

    Redis confirms an acknowledgement, and gives back what had waited in a worker for too long before it was begun. With
    RabbitMQ an acknowledgement may be on its way when its worker dies.
    """
    waited_s = earlier.begun_at_s - history.sent_at_s[earlier.task_id]
    return not history.redis or reason == OUTAGE or waited_s >= VISIBILITY_S


def _told(execution: Execution, history: History) -> str:
    start_s = history.sent_at_s.get(execution.task_id, 0.0)
    begun_s, left_s = execution.begun_at_s - start_s, execution.left_at_s - start_s
    return f"process {execution.pid}: {begun_s:.2f} s - {left_s:.2f} s {execution.how}"
