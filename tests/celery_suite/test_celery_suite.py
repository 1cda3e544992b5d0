"""A part of Celery's own integration suite; ``python -m tests.celery_suite`` runs all of it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.celery_suite.compare import compare
from tests.celery_suite.runner import SIDES, Outcome, run_suite
from tests.celery_suite.source import as_async

#: Short ones, of every kind of canvas.
PART = "test_link_error or simple_chain or chain_of or replace or callback_child or stamp or dedup"

TASKS = """
@shared_task(bind=True)
def outer(self, x):
    sleep(x)
    def inner():
        sleep(1)
    return other(x)

@shared_task
def other(x):
    return x

class Own(Task):
    def run(self):
        sleep(2)

    def helper(self):
        sleep(3)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_part_of_the_suite_ends_as_under_prefork(tmp_path: Path) -> None:
    outcomes = run_suite(tmp_path, "redis", SIDES, ["test_canvas", "test_dedup_chain_dispatch"], ["-k", PART])
    assert len(outcomes["prefork"]) > 40
    assert all(any(outcome.word == "passed" for outcome in side.values()) for side in outcomes.values())
    unexplained = [each for each in compare(outcomes, "redis") if each.explained is None]
    assert not unexplained, "\n\n".join(f"{each.test} ({each.side}): {each.ours.why}" for each in unexplained)


def test_tasks_are_rewritten_as_coroutines_and_what_is_inside_of_them_is_not() -> None:
    module: dict[str, object] = {"shared_task": lambda *_a, **_k: lambda fn: fn, "Task": object}
    source = as_async(TASKS)
    exec(source.replace("@shared_task\n", "@shared_task()\n"), module)
    own: object = module["Own"]
    assert inspect.iscoroutinefunction(module["outer"]) and inspect.iscoroutinefunction(module["other"])
    assert inspect.iscoroutinefunction(own.run) and not inspect.iscoroutinefunction(own.helper)  # type: ignore[attr-defined]
    assert "await asyncio.sleep(x)" in source and "await asyncio.sleep(2)" in source and "await other(x)" in source
    assert source.count("await asyncio") == 2


CHORD = (
    "t/integration/test_canvas.py::test_chord::test_chord_error_propagation_with_different_body_types[body is a group]"
)


@pytest.mark.parametrize(("lost", "won"), [("prefork", "def"), ("def", "prefork")])
def test_a_race_of_celery_s_own_is_explained_whichever_side_loses_it(lost: str, won: str) -> None:
    revoked = Outcome("failed", "E   celery.exceptions.TaskRevokedError: revoked")
    (difference,) = compare({lost: {CHORD: revoked}, won: {CHORD: Outcome("passed")}}, "rabbitmq")
    assert difference.explained is not None
    (another,) = compare(
        {lost: {CHORD: Outcome("failed", "E   KeyError")}, won: {CHORD: Outcome("passed")}}, "rabbitmq"
    )
    assert another.explained is None


def test_what_explains_a_failure_of_ours_explains_none_of_prefork_s() -> None:
    nested = "t/integration/test_canvas.py::test_chain::test_nested_group_chord_body_chain"
    said = Outcome("failed", "E   Failed: DID NOT RAISE TimeoutError")
    (difference,) = compare({"prefork": {nested: said}, "def": {nested: Outcome("passed")}}, "redis")
    assert difference.explained is None
