"""A result backend that is slow to store that a task is retried: as slow as the next attempt, if that has been sent."""

from __future__ import annotations

import time
from typing import Any

from celery.backends.filesystem import FilesystemBackend
from celery.states import RETRY

LATE_S = 3.0


class LateBackend(FilesystemBackend):  # type: ignore[misc]
    """Stores a retry once the task has failed, or after three seconds."""

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Store a state."""
        give_up_at_s = time.monotonic() + LATE_S
        while state == RETRY and time.monotonic() < give_up_at_s:
            if self.get_task_meta(task_id, cache=False)["status"] == "FAILURE":
                break
            time.sleep(0.02)
        return super().store_result(task_id, result, state, *args, **kwargs)
