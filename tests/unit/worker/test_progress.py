"""Progress on its way to the result backend, and the outcome that must be the last."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from asyncworker.worker.progress import ProgressState, outcome_of


class Backend:
    """Keeps what is stored; storing takes until it is let through."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.entered = threading.Event()
        self.gate = threading.Event()

    def get_task_meta(self, task_id: str, cache: bool) -> dict[str, Any]:
        return {"status": self.stored[-1] if self.stored else "PENDING"}

    def store_result(self, task_id: str, meta: Any, state: str, traceback: Any, request: Any) -> None:
        self.entered.set()
        assert self.gate.wait(120)
        self.stored.append(state)


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def state(backend: Backend) -> Any:
    state = ProgressState(lambda: backend, SimpleNamespace(id="one"))
    yield state
    state.forget()


def test_an_outcome_waits_for_progress_that_is_on_its_way(backend: Backend, state: ProgressState) -> None:
    def finish() -> None:
        with outcome_of("one"):
            backend.stored.append("FAILURE")

    late = threading.Thread(target=state.store, args=({"done": 1},))
    late.start()
    assert backend.entered.wait(120)
    outcome = threading.Thread(target=finish)
    outcome.start()
    backend.gate.set()
    for thread in (late, outcome):
        thread.join(120)
    assert backend.stored == ["PROGRESS", "FAILURE"]


@pytest.mark.promise("progress-hides-no-outcome")
def test_no_progress_is_stored_after_an_outcome(backend: Backend, state: ProgressState) -> None:
    backend.gate.set()
    with outcome_of("another"):
        state.store({"done": 1})
    with outcome_of("one"):
        pass
    state.store({"done": 2})
    assert backend.stored == ["PROGRESS"]
