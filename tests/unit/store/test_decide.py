"""The rules by which a message that asks for a run is answered: a table, and what holds for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.store import RunRequest, RunState
from asyncworker.store.decide import Continue, Decision, OnChange, Recall, Refuse, Start, decide


@dataclass
class Row:
    """A stored run."""

    task: str = "task"
    state: RunState = "failed"
    complete: bool = False
    keyed: bool = False
    message: str = "first"
    fingerprint: str = "fixed.source"
    partitions: int = 0
    done: int = 5
    failed: int = 0
    skipped: int = 0


def asked(**changes: Any) -> RunRequest:
    return RunRequest(run_id="run", **{"task": "task", "fingerprint": "fixed.source", "message": "second"} | changes)


@pytest.mark.parametrize(
    ("row", "request_", "how", "expected"),
    [
        (None, asked(), {}, Start),
        (Row(state="pending"), asked(), {}, Continue),
        (Row(state="running"), asked(message="first"), {}, Continue),
        (Row(), asked(), {}, Continue),
        (Row(), asked(message="first"), {}, Recall),
        (Row(), asked(), {"redelivered": True}, Recall),
        (Row(), asked(), {"redelivered": True, "resume": True}, Continue),
        (Row(state="done", complete=True), asked(), {}, Start),
        (Row(state="done", complete=True), asked(), {"resume": True}, Continue),
        (Row(state="done", complete=True), asked(partitions=3), {}, Start),
        (Row(state="done", complete=True), asked(message="first", partitions=3), {}, Recall),
        (Row(), asked(fingerprint="other.source"), {}, Refuse),
        (Row(), asked(fingerprint="fixed.other"), {}, Refuse),
        (Row(), asked(fingerprint="fixed.other"), {"on_change": "resume"}, Continue),
        (Row(), asked(fingerprint="fixed.other"), {"on_change": "restart"}, Start),
        (Row(keyed=True), asked(fingerprint="fixed.other", keyed=True), {}, Continue),
        (Row(keyed=True, partitions=2), asked(fingerprint="fixed.other", keyed=True, partitions=2), {}, Refuse),
        (Row(), asked(keyed=True), {"on_change": "resume"}, Refuse),
        (Row(partitions=4), asked(), {}, Refuse),
        (Row(partitions=4), asked(partitions=2), {"on_change": "resume"}, Refuse),
        (Row(partitions=4), asked(partitions=2), {"resume": True}, Refuse),
        (Row(partitions=4), asked(partitions=2), {"on_change": "restart"}, Start),
        (Row(partitions=4), asked(partitions=4), {}, Continue),
        (Row(), asked(partitions=4), {}, Refuse),
        (Row(done=0, failed=1), asked(partitions=4), {}, Refuse),
        # It died before it was cut.
        (Row(done=0), asked(partitions=4), {}, Continue),
    ],
)
def test_what_is_answered(row: Row | None, request_: RunRequest, how: dict[str, Any], expected: type[Decision]) -> None:
    given_: dict[str, Any] = {"redelivered": False, "resume": False, "on_change": "error"} | how
    assert isinstance(decide(row, request_, **given_), expected)


rows = st.builds(
    Row,
    state=st.sampled_from(["pending", "running", "done", "failed", "cancelled"]),
    complete=st.booleans(),
    keyed=st.booleans(),
    message=st.sampled_from(["first", "second", ""]),
    fingerprint=st.sampled_from(["fixed.source", "fixed.other", "other.source"]),
    partitions=st.sampled_from([0, 2, 4]),
    done=st.integers(0, 2),
)
requests = st.builds(
    asked,
    keyed=st.booleans(),
    message=st.sampled_from(["first", "second", ""]),
    fingerprint=st.sampled_from(["fixed.source", "fixed.other", "other.source"]),
    partitions=st.sampled_from([0, 2, 4]),
)
changes = st.sampled_from(["error", "restart", "resume"])


@given(rows, requests, st.booleans(), st.booleans(), changes)
def test_nothing_goes_on_from_a_checkpoint_that_it_cannot_read(
    row: Row, request_: RunRequest, redelivered: bool, resume: bool, on_change: OnChange
) -> None:
    answer = decide(row, request_, redelivered=redelivered, resume=resume, on_change=on_change)
    if isinstance(answer, Continue):
        assert row.keyed == request_.keyed
        assert row.partitions == request_.partitions or not (row.partitions or row.done)
        assert row.fingerprint == request_.fingerprint or row.keyed or on_change == "resume"
    if isinstance(answer, Recall):
        assert row.state in ("done", "failed", "cancelled")
    if isinstance(answer, Start):
        assert row.complete or on_change == "restart"


@given(rows, requests, st.booleans(), changes)
@pytest.mark.promise("second-delivery-runs-nothing")
def test_a_message_that_comes_again_never_runs_what_it_has_brought_to_an_end(
    row: Row, request_: RunRequest, redelivered: bool, on_change: OnChange
) -> None:
    answer = decide(row, request_, redelivered=redelivered, resume=False, on_change=on_change)
    ended = row.state in ("done", "failed", "cancelled")
    if ended and (redelivered or request_.is_of(row.message)):
        assert isinstance(answer, Recall)
