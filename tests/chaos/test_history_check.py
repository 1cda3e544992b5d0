"""The checker of histories finds what it is there to find."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.chaos.history.check import Report, check
from tests.chaos.history.history import History, Outcome
from tests.chaos.history.log import Line
from tests.chaos.history.settings import CONCURRENCY, ITEMS

#: Two workers.
A, B = 1, 2


def line(event: str, at_s: float, pid: int = A, **fields: object) -> Line:
    return Line(event, at_s, at_s, pid, **{"task_id": "t", "kind": "late", **fields})  # type: ignore[arg-type]


def pulses(pid: int, *, until_s: float = 60, silent: tuple[float, float] = (0, 0)) -> list[Line]:
    times = [n / 5 for n in range(int(until_s * 5))]
    return [line("pulse", at_s, pid) for at_s in times if not silent[0] < at_s < silent[1]]


def ran(token: str, pid: int, begin_s: float, end_s: float | None, *, how: str = "end", **fields: object) -> list[Line]:
    lines = [line("begin", begin_s, pid, token=token, **fields)]
    return lines if end_s is None else [*lines, line(how, end_s, pid, token=token, **fields)]


def checked(
    *parts: Iterable[Line],
    kind: str = "late",
    stored: str | None = None,
    left: int = 0,
    on_its_way: bool = False,
    given_away_at_s: float | None = None,
    redis: bool = False,
) -> Report:
    """Check the history of one task, sent at 1; both workers live, where nothing else is told."""
    history = History(loses_on_its_way=on_its_way, redis=redis)
    if given_away_at_s is not None:
        history.given_away_at_s["t"] = given_away_at_s
    lines = [line("sent", 1, 0, kind=kind), *(each for part in parts for each in part)]
    for pid in (A, B):
        if not any(each.event == "pulse" and each.pid == pid for each in lines):
            lines += pulses(pid)
    history.add_lines(lines)
    history.left = left
    if stored is not None:
        history.outcomes["t"] = Outcome("SUCCESS", stored)
    return check(history)


def test_a_task_that_was_done_once() -> None:
    report = checked(ran("x", A, 2, 3), stored="x")
    assert report.violations == []
    assert report.rows["late"] == {"accepted": 1, "done": 1}


@pytest.mark.parametrize("kind", ["late", "late_sync", "long", "fan_out"])
@pytest.mark.parametrize("on_its_way", [False, True])
def test_a_late_task_that_is_lost(kind: str, on_its_way: bool) -> None:
    report = checked(kind=kind, on_its_way=on_its_way)
    assert "is lost" in report.violations[0]


def test_a_late_task_that_began_and_is_lost() -> None:
    killed = [line("killed", 2.5)]
    assert "was accepted and is lost" in checked(ran("x", A, 2, None), killed, on_its_way=True).violations[0]


@pytest.mark.parametrize("before", [[], ran("x", A, 2, None)])
def test_a_message_lost_on_its_way_is_documented_for_one_broker_alone(before: list[Line]) -> None:
    """Also one that had come before, and was given back."""
    killed = [*before, line("killed", 5.5), line("killed", 5.5, B)]
    report = checked(killed, on_its_way=True, given_away_at_s=5)
    assert (report.violations, report.rows["late"]["lost on its way"]) == ([], 1)
    assert "is lost" in checked(killed, given_away_at_s=5).violations[0]


def test_a_loss_on_its_way_needs_the_brokers_log_and_a_connection_that_ended_then() -> None:
    killed = [line("killed", 2.5)]
    assert "is lost" in checked(killed, on_its_way=True).violations[0]
    assert "is lost" in checked(killed, on_its_way=True, given_away_at_s=7).violations[0]
    assert "is lost" in checked([line("killed", 40)], on_its_way=True, given_away_at_s=2).violations[0]


def test_a_fan_out_that_has_only_told_its_progress_has_no_outcome() -> None:
    lost, on_its_way = History(), History(loses_on_its_way=True, given_away_at_s={"t": 2.0})
    for history in (lost, on_its_way):
        history.add_lines([line("sent", 1, 0, kind="fan_out"), line("killed", 2)])
        history.outcomes["t"] = Outcome("PROGRESS")
    assert "was accepted and is lost" in check(lost).violations[0]
    assert check(on_its_way).violations == []


def test_no_more_are_lost_on_their_way_than_connections_ended() -> None:
    history = History(loses_on_its_way=True, given_away_at_s=dict.fromkeys(("t", "u"), 2.0))
    history.add_lines([line("sent", 1, 0), line("sent", 1, 0, task_id="u"), line("killed", 2)])
    assert check(history).violations == ["2 were lost on their way, by 1 connections"]


def test_an_early_task_is_lost_with_its_worker_alone() -> None:
    begun = [line("begin", 2, A, kind="early", token="x")]
    report = checked(begun, [line("killed", 3)], kind="early")
    assert (report.violations, report.rows["early"]["lost with its worker"]) == ([], 1)
    assert "nothing had happened to its worker" in checked(begun, kind="early").violations[0]
    ended = ran("x", A, 2, 3, kind="early")
    unstored = checked(ended, [line("killed", 3.1)], kind="early")
    assert (unstored.violations, unstored.rows["early"]["lost with its worker"]) == ([], 1)
    assert checked(ended, [line("killed", 30)], kind="early").violations


def test_a_failure_is_told() -> None:
    history = History()
    history.add_lines([line("sent", 1, 0), *ran("x", A, 2, 3)])
    history.outcomes["t"] = Outcome("FAILURE", text="StoreError")
    assert "ended as FAILURE: StoreError" in check(history).violations[0]


def test_a_result_of_nowhere() -> None:
    assert "of no execution that returned" in checked(ran("x", A, 2, 3), stored="y").violations[0]
    assert "of no execution" in checked(ran("x", A, 2, 3, how="cut"), stored="x").violations[0]


def test_a_worker_that_ends_by_itself() -> None:
    report = checked(ran("x", A, 2, 3), [line("crashed", 4, B, task_id="", kind="")], stored="x")
    assert report.violations == [f"worker {B} crashed"]


def test_what_the_broker_still_holds() -> None:
    assert "still holds 2" in checked(ran("x", A, 2, 3), stored="x", left=2).violations[0]


def test_a_repetition_needs_a_reason() -> None:
    twice = [*ran("x", A, 2, 3), *ran("y", B, 10, 11)]
    assert "again without a reason" in checked(twice, stored="y").violations[0]
    for reason, told in (
        ([line("killed", 3.5)], "again: worker killed"),
        ([line("crash", 3.5, -1)], "again: broker or connection"),
        (pulses(A, silent=(3, 12)), "again: worker frozen"),
    ):
        report = checked(twice, reason, stored="y")
        assert (report.violations, report.rows["late"][told]) == ([], 1)


def test_the_visibility_timeout_is_a_reason_only_while_a_task_is_not_acknowledged() -> None:
    outlasted = [*ran("x", A, 2, 9), *ran("y", B, 10, 11)]
    assert checked(outlasted, stored="y", redis=True).rows["late"]["again: visibility timeout"] == 1
    acknowledged = [*ran("x", A, 2, 3), *ran("y", B, 10, 11)]
    assert checked(acknowledged, stored="y", redis=True).violations


def test_an_early_task_is_not_run_again_because_its_worker_died() -> None:
    twice = [*ran("x", A, 2, None, kind="early"), *ran("y", B, 4, 5, kind="early")]
    report = checked(twice, [line("killed", 3)], kind="early", stored="y", redis=True)
    assert "again without a reason" in report.violations[0]
    lost_ack = checked(twice, [line("disconnect", 1.5, -1), line("killed", 3)], kind="early", stored="y", redis=True)
    assert (lost_ack.violations, lost_ack.rows["early"]["again: broker or connection"]) == ([], 1)


# -- long tasks, which hold a lease ------------------------------------------------------------------------------------

OUTAGE = [line("disconnect", 1.5, -1)]


def long(token: str, pid: int, begin_s: float, end_s: float, how: str = "end") -> list[Line]:
    return ran(token, pid, begin_s, end_s, how=how, kind="long")


def test_a_long_task_run_by_two_at_once() -> None:
    at_once = [*long("x", A, 2, 20), *long("y", B, 12, 22)]
    assert "was run by two at once" in checked(at_once, OUTAGE, kind="long", stored="x").violations[0]


def test_before_it_has_its_lease_a_long_task_may_be_run_by_two() -> None:
    at_once = [*long("x", A, 2, 11), *long("y", B, 3, 12)]
    report = checked(at_once, OUTAGE, kind="long", stored="x")
    assert (report.violations, report.rows["long"]["at once: before the lease"]) == ([], 1)


def test_a_frozen_holder_of_a_long_task_is_taken_over_and_its_outcome_is_refused() -> None:
    at_once = [*long("x", A, 2, 20, "cut"), *long("y", B, 14, 24)]
    frozen = pulses(A, silent=(9, 19))
    report = checked(at_once, frozen, kind="long", stored="y")
    assert (report.violations, report.rows["long"]["at once: silent holder back"]) == ([], 1)
    early = checked(at_once, pulses(A, silent=(3, 11)), OUTAGE, kind="long", stored="x")
    assert early.rows["long"]["at once: before the lease"] == 1  # it had none when it froze
    stored = checked([*long("x", A, 2, 20), *long("y", B, 14, 24)], frozen, kind="long", stored="x")
    assert "taken over was stored" in stored.violations[0]


# -- fan-outs ----------------------------------------------------------------------------------------------------------


def items(pid: int, start_s: float, indexes: Iterable[int], *, length_s: float = 0.1, tag: str = "") -> list[Line]:
    """Items, two at once."""
    found = []
    for place, index in enumerate(indexes):
        begin_s = start_s + place * length_s / 2
        found += ran(f"{tag}{index}", pid, begin_s, begin_s + length_s, kind="fan_out", index=index)
    return found


def fan_out(*parts: Iterable[Line], tokens: dict[int, str] | None = None) -> Report:
    history = History()
    lines = [line("sent", 1, 0, kind="fan_out"), *(each for part in parts for each in part)]
    for pid in (A, B):
        if not any(each.event == "pulse" and each.pid == pid for each in lines):
            lines += pulses(pid)
    history.add_lines(lines)
    history.outcomes["t"] = Outcome("SUCCESS")
    history.items["t"] = {index: str(index) for index in range(ITEMS)} if tokens is None else tokens
    return check(history)


def test_a_fan_out_that_was_run_once() -> None:
    assert fan_out(items(A, 2, range(ITEMS))).violations == []


def test_a_fan_out_goes_on_elsewhere() -> None:
    report = fan_out(items(A, 2, range(50)), items(B, 9, range(50, ITEMS)))
    assert (report.violations, report.rows["fan_out"]["gone on with by another worker"]) == ([], 1)


def test_a_fan_out_run_by_two_at_once() -> None:
    report = fan_out(items(A, 2, range(50)), items(B, 3, range(50, ITEMS)))
    assert "at once" in report.violations[0]


def test_a_fan_out_whose_holder_was_frozen() -> None:
    # It had four items when it froze at 4.5, and begins one more when it is back at 10.
    before = items(A, 2, range(50))
    back = items(A, 10, [50], tag="late")
    others = items(B, 8, range(48, ITEMS))
    hung = ran("hung", A, 4.45, 10.1, kind="fan_out", index=49)
    report = fan_out(before, hung, back, others, pulses(A, silent=(4.5, 9.9)))
    assert report.violations == []
    assert report.rows["fan_out"]["taken over from a silent holder"] == 1
    assert report.rows["fan_out"]["items of a silent holder back"] == 1
    endless = items(A, 10, range(50, 140), length_s=0.02, tag="late")
    went_on = fan_out(before, hung, endless, others, pulses(A, silent=(4.5, 9.9)))
    assert any("went on" in violation for violation in went_on.violations)


def test_an_item_that_a_holder_begins_while_it_has_not_heard_of_the_other() -> None:
    # It comes back at 10, a moment after the other has begun to go on, and follows that for two items.
    tokens = {index: str(index) if index < 48 else f"b{index}" for index in range(ITEMS)}
    before, others = items(A, 2, range(49)), items(B, 9.95, range(48, ITEMS), tag="b")
    hung = ran("hung", A, 4.45, 10.1, kind="fan_out", index=49)
    back = items(A, 10.1, [50, 51], tag="late")
    frozen = pulses(A, silent=(4.5, 9.99))
    report = fan_out(before, hung, back, others, frozen, tokens=tokens)
    assert (report.violations, report.rows["fan_out"]["items again: a silent holder back"]) == ([], 2)
    long_after = fan_out(before, hung, others, frozen, items(A, 15, [120], tag="late"), tokens=tokens)
    assert any("again without a reason" in violation for violation in long_after.violations)


def test_a_fan_out_with_more_items_at_once_than_were_asked_for() -> None:
    many = [each for n in range(CONCURRENCY + 1) for each in ran(str(n), A, 2, 3, kind="fan_out", index=n)]
    assert any(f"more than {CONCURRENCY}" in violation for violation in fan_out(many).violations)


def test_an_item_that_is_executed_again_for_nothing() -> None:
    report = fan_out(items(A, 2, range(ITEMS)), items(A, 30, [7], tag="again"))
    assert "items [7] were executed again without a reason" in report.violations[0]
    tokens = {index: str(index) if index < 58 else f"b{index}" for index in range(ITEMS)}
    others = items(B, 9, range(58, ITEMS), tag="b")
    killed = fan_out(items(A, 2, range(60)), [line("killed", 6)], others, tokens=tokens)
    assert (killed.violations, killed.rows["fan_out"]["items again: worker killed"]) == ([], 2)


def test_results_of_items_that_are_missing_or_invented() -> None:
    tokens = {index: str(index) for index in range(ITEMS) if index != 5}
    assert "1 of its items have no result" in fan_out(items(A, 2, range(ITEMS)), tokens=tokens).violations[0]
    invented = fan_out(items(A, 2, range(ITEMS)), tokens=tokens | {5: "invented"})
    assert "of no execution that returned" in invented.violations[0]
