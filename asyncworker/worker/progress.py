"""Store a running task's progress as its state, in a way that never hides how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncworker.worker.provisional import ProvisionalState, attempt_started_at

__all__ = ["PROGRESS", "ProgressState", "outcome_of"]

#: The state's name, as in Celery's own documentation of custom states.
PROGRESS = "PROGRESS"

#: Of the tasks that store progress, by task id.
_states: dict[str, ProgressState] = {}


class ProgressState:
    """One task's right to store progress, until this process stores its outcome.

    Args:
        backend: Returns the backend that is written to, on the thread that writes.
        request: The task's request.
    """

    def __init__(self, backend: Callable[[], Any], request: Any) -> None:
        self._backend = backend
        self._request = request
        self._id = str(request.id)
        self._started_at = attempt_started_at()
        self._ended = False
        self.lock = threading.Lock()
        _states[self._id] = self

    def store(self, meta: dict[str, Any]) -> None:
        """Store progress, unless an outcome was stored, here or elsewhere. Blocks: not on the loop."""
        state = ProvisionalState(
            task_id=self._id, state=PROGRESS, result=meta, started_at=self._started_at, request=self._request
        )
        with self.lock:
            if not self._ended:
                state.store(self._backend())

    def end(self) -> None:
        """Store no more."""
        self._ended = True

    def forget(self) -> None:
        """The same, with no store under way."""
        self.end()
        if _states.get(self._id) is self:
            del _states[self._id]


@contextmanager
def outcome_of(task_id: str) -> Iterator[None]:
    """Within the block an outcome is stored: progress that is on its way gets there before, and none comes after."""
    state = _states.get(task_id)
    if state is None:
        yield
        return
    state.end()
    with state.lock:
        yield
