"""Provisional states of overtaken attempts, and the outcome of another, in every order of their calls of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker.provisional import ProvisionalState, stored
from tests.interleavings.steps import Gated, at_random, every_order

TASK = "one"


class Request:
    """As much of a request as a result tells of."""

    _children = None
    children: tuple[Any, ...] = ()
    group = parent_id = None


@pytest.fixture
def backend(valkey: EmbeddedServer) -> Iterator[Any]:
    with Celery("results", backend=valkey.result_url, set_as_current=False) as app:
        backend: Any = app.backend
        backend.client = Gated(backend.client, "get", "eval", "pipeline")
        yield backend


class Overtaken:
    """Attempts that store such states, one after the other, and another one that ends.

    Args:
        backend: Where they store them.
        attempts: The states of each.
        outcome: How the other one ends.
    """

    def __init__(self, backend: Any, attempts: list[tuple[str, ...]], outcome: str) -> None:
        backend.client.flushdb()
        self._backend = backend
        self._outcome = outcome
        self._started_at = datetime.now(UTC)
        self._ended = False
        self.holders: list[Callable[[], object]] = [lambda names=names: self._store(names) for names in attempts]
        self.holders.append(self._end)

    def _store(self, names: tuple[str, ...]) -> None:
        for name in names:
            # Before a retry is sent, it was looked what is stored: nothing.
            result, seen = (ValueError("once more"), b"") if name == "RETRY" else ({"of": name}, None)
            state = ProvisionalState(
                task_id=TASK, state=name, result=result, request=Request(), started_at=self._started_at, seen=seen
            )
            state.store(self._backend)

    def _end(self) -> None:
        self._backend.store_result(TASK, ValueError("its own") if self._outcome == "FAILURE" else 1, self._outcome)
        self._ended = True

    def died(self, number: int) -> None:
        """Nothing is held."""

    def check(self) -> None:
        """Where an outcome was stored, there it stays."""
        if self._ended:
            assert self._backend.decode(stored(self._backend, TASK))["status"] == self._outcome

    check_end = check


@pytest.mark.parametrize("outcome", ["SUCCESS", "FAILURE", "REVOKED"])
@pytest.mark.promise("no-state-replaces-an-outcome")
def test_no_order_of_calls_puts_a_state_in_the_place_of_an_outcome(backend: Any, outcome: str) -> None:
    assert every_order(lambda: Overtaken(backend, [("STARTED", "PROGRESS")], outcome)) > 50


@pytest.mark.parametrize("attempts", [[("PROGRESS",), ("STARTED",)], [("RETRY",), ("PROGRESS",)]])
def test_nor_do_those_of_two_attempts(backend: Any, attempts: list[tuple[str, ...]]) -> None:
    assert every_order(lambda: Overtaken(backend, attempts, "FAILURE"), deviations=3) > 50


def test_nor_does_a_long_schedule(backend: Any, seed: int, schedules: int) -> None:
    attempts = [("STARTED", "PROGRESS", "PROGRESS", "RETRY"), ("STARTED", "PROGRESS")]
    at_random(lambda: Overtaken(backend, attempts, "FAILURE"), seed=seed, count=20 * schedules)


def test_the_orders_find_a_state_that_is_stored_in_two_steps(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_two_steps(self: ProvisionalState, backend: Any) -> bool:
        before = stored(backend, self.task_id)
        if before and not self._may_replace(backend.decode(before)):
            return False
        backend.client.pipeline().set(backend.get_key_for_task(self.task_id), self._document(backend)).execute()
        return True

    monkeypatch.setattr(ProvisionalState, "_compare_and_set", in_two_steps)
    with pytest.raises(pytest.fail.Exception, match="in the schedule"):
        every_order(lambda: Overtaken(backend, [("PROGRESS",)], "FAILURE"))
