"""Provisional states of a task (STARTED, PROGRESS, RETRY, its own): stored only where no outcome is.

An outcome that was stored since this attempt started is another one's, which has overtaken it: a provisional state in
its place would stay for ever. One that is older belongs to an earlier sending of the task under the same id. Celery's
backends guard only ``SUCCESS`` against being overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.backends.rpc import RPCBackend
from redis.exceptions import ResponseError

from asyncworker.loop import current_job
from asyncworker.redis_refusals import refuses_for_now
from asyncworker.worker.job import Job

__all__ = ["REPLACE", "ProvisionalState", "attempt_started_at", "on_redis", "stored"]

#: KEYS: the results' keys. ARGV: seconds that they are kept, 0 for ever; then for each its document, and the one that
#: it may replace (empty: none). Stores and announces as Celery's backend does; returns how many it did.
REPLACE = """
local kept, replaced = tonumber(ARGV[1]), 0
for number, key in ipairs(KEYS) do
  local document, seen = ARGV[2 * number], ARGV[2 * number + 1]
  if (redis.call('GET', key) or '') == seen then
    if kept > 0 then
      redis.call('SET', key, document, 'EX', kept)
    else
      redis.call('SET', key, document)
    end
    redis.call('PUBLISH', key, document)
    replaced = replaced + 1
  end
end
return replaced
"""

#: How often somebody else may store something between our look and our script, before it is given up.
MAX_LOOKS = 20


def on_redis(backend: Any) -> bool:
    """Tell whether it is Celery's own backend on Redis, where a state can be compared and set in one step."""
    return type(backend) in (RedisBackend, SentinelBackend)


def stored(backend: Any, task_id: str) -> bytes:
    """Return what is stored for a task in Celery's Redis backend; empty where nothing is."""
    document = backend.client.get(backend.get_key_for_task(task_id))
    return b"" if document is None else bytes(document)


def attempt_started_at() -> datetime | None:
    """Return since when outcomes of the running task are those of others that have overtaken it.

    ``None``: all are, for a delivery that came again may find the outcome of the first.
    """
    job = current_job.get()
    if not isinstance(job, Job):
        return datetime.now(UTC)
    return None if job.redelivered else datetime.now(UTC) - timedelta(seconds=job.age_s)


@dataclass(frozen=True, kw_only=True)
class ProvisionalState:
    """A state that is to be stored for a task which has not ended.

    Attributes:
        started_at: See `attempt_started_at`.
        seen: The document that it may replace, and no other; ``None``: any that is not an outcome. Other backends than
            Redis cannot compare: there it was stored when that was noted.
    """

    task_id: str
    state: str
    result: Any
    started_at: datetime | None
    traceback: Any = None
    request: Any = None
    seen: bytes | None = None

    @classmethod
    def of_call(cls, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ProvisionalState | None:
        """Return what a call of a backend's method would store; ``None``: an outcome, or nothing."""
        if name not in _CALLS:
            return None
        values = _CALLS[name](*args, **kwargs)
        if values["state"] in states.READY_STATES:
            return None
        job = current_job.get()
        if values["state"] == states.RETRY and isinstance(job, Job) and job.id == values["task_id"]:
            # Celery sends the next attempt first: where that one is quicker, its state would be lost.
            values["seen"] = job.stored_before_retry
        return cls(started_at=attempt_started_at(), **values)

    def store(self, backend: Any) -> bool:
        """Store it unless an outcome is there; return whether it was stored. Blocks; safe to repeat.

        On Redis one step compares and sets. Other backends can only be asked just before, and ``rpc://`` not at all.
        """
        if on_redis(backend):
            try:
                return self._compare_and_set(backend)
            except ResponseError as exc:
                if refuses_for_now(exc):
                    raise
                # No scripts.
        elif self.seen is not None:
            return False
        if not isinstance(backend, RPCBackend | DisabledBackend) and not self._may_replace(
            backend.get_task_meta(self.task_id, cache=False)
        ):
            return False
        backend.store_result(self.task_id, self.result, self.state, traceback=self.traceback, request=self.request)
        return True

    def replacement(self, backend: Any) -> Any:
        """Return the document to store in the place of the one that was seen; ``None`` where that is an outcome."""
        if self.seen and not self._may_replace(backend.decode(self.seen)):
            return None
        return self._document(backend)

    def _compare_and_set(self, backend: Any) -> bool:
        document = self._document(backend)
        key, kept_s = backend.get_key_for_task(self.task_id), int(backend.expires or 0)
        for _ in range(MAX_LOOKS):
            before = stored(backend, self.task_id)
            if self.seen is not None and before != self.seen:
                return False
            if before and not self._may_replace(backend.decode(before)):
                return False
            if backend.client.eval(REPLACE, 1, key, kept_s, document, before):
                return True
        return False

    def _document(self, backend: Any) -> Any:
        result = backend.encode_result(self.result, self.state)
        meta = backend._get_result_meta(result=result, state=self.state, traceback=self.traceback, request=self.request)
        meta["task_id"] = self.task_id
        return backend.encode(meta)

    def _may_replace(self, meta: Mapping[str, Any]) -> bool:
        if meta["status"] not in states.READY_STATES:
            return True
        done_at = moment_of(meta.get("date_done"))
        return self.started_at is not None and done_at is not None and done_at < self.started_at


def _store_result(
    task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
) -> dict[str, Any]:
    return {"task_id": task_id, "result": result, "state": state, "traceback": traceback, "request": request}


def _mark_as_started(task_id: str, **meta: Any) -> dict[str, Any]:
    return {"task_id": task_id, "result": meta, "state": states.STARTED}


def _mark_as_retry(
    task_id: str,
    exc: BaseException,
    traceback: Any = None,
    request: Any = None,
    store_result: bool = True,
    state: str = states.RETRY,
) -> dict[str, Any]:
    return {"task_id": task_id, "result": exc, "state": state, "traceback": traceback, "request": request}


#: A backend's methods that may store such a state: what they are given.
_CALLS: dict[str, Callable[..., dict[str, Any]]] = {
    "store_result": _store_result,
    "mark_as_started": _mark_as_started,
    "mark_as_retry": _mark_as_retry,
}


def moment_of(value: Any) -> datetime | None:
    """Return when an outcome was stored: backends give text or a datetime, with or without a zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value
