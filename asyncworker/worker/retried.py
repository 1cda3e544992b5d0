"""The state ``RETRY`` of a task: stored only where the next attempt has not stored anything yet.

Celery sends the next attempt first and stores the state then; where the next one is quicker, its result would be lost.
"""

from __future__ import annotations

from typing import Any

from celery import states

__all__ = ["store_retry", "stored"]

#: KEYS: the result's key. ARGV: the document, the one that it may replace (empty: none), then options of SET. Stores
#: and announces as Celery's backend does.
REPLACE = """
if (redis.call('GET', KEYS[1]) or '') == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 3))
  redis.call('PUBLISH', KEYS[1], ARGV[1])
end
"""


def stored(backend: Any, task_id: str) -> bytes:
    """Return what is stored for a task in Celery's Redis backend; empty where nothing is."""
    document = backend.client.get(backend.get_key_for_task(task_id))
    return b"" if document is None else bytes(document)


def store_retry(backend: Any, before: bytes, task_id: str, exc: BaseException, traceback: Any, request: Any) -> None:
    """Store the state unless something was stored since ``before``; safe to repeat."""
    result = backend.encode_result(exc, states.RETRY)
    meta = backend._get_result_meta(result=result, state=states.RETRY, traceback=traceback, request=request)
    meta["task_id"] = task_id
    expiry = ("EX", int(backend.expires)) if backend.expires else ()
    backend.client.eval(REPLACE, 1, backend.get_key_for_task(task_id), backend.encode(meta), before, *expiry)
