"""Outcomes for Redis: collected on the loop, stored and announced together by one connection.

What is stored is what Celery's own backend stores, under the same keys, with the same notice to whoever waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as encode_string
from types import NoneType
from typing import Any

import redis.asyncio as redis
from celery import states
from kombu.utils.json import dumps
from redis.exceptions import NoPermissionError, NoScriptError

from asyncworker.loop import current_job
from asyncworker.redis_refusals import refuses_for_now
from asyncworker.worker.job import Job
from asyncworker.worker.persist import log_wait, waits
from asyncworker.worker.provisional import REPLACE, ProvisionalState
from asyncworker.worker.redis_client import async_client

__all__ = ["ResultWriter"]

logger = logging.getLogger(__name__)

#: KEYS: the results' keys. ARGV: seconds that they are kept, 0 for ever, then the documents. Stores and announces each
#: that is the first under its key; returns number and document of those that are not.
STORE = """
local kept, found = tonumber(ARGV[1]), {}
for number, key in ipairs(KEYS) do
  local document, stored = ARGV[number + 1], nil
  if kept > 0 then
    stored = redis.call('SET', key, document, 'EX', kept, 'NX')
  else
    stored = redis.call('SET', key, document, 'NX')
  end
  if stored then
    redis.call('PUBLISH', key, document)
  else
    found[#found + 1] = number
    found[#found + 1] = redis.call('GET', key)
  end
end
return found
"""

#: What a lean document is for most results: as the encoder writes it, at a sixth of its cost.
_PLAIN_DOCUMENT = (
    '{"status": "SUCCESS", "result": %s, "traceback": null, "children": [], "date_done": "%s", "task_id": %s}'
)
_PLAIN: dict[type, Callable[[Any], str]] = {
    NoneType: lambda _: "null",
    bool: lambda value: "true" if value else "false",
    int: int.__repr__,
    str: encode_string,
}

#: So many, or so much, are stored by one call.
MOST = 500
MOST_BYTES = 4 << 20


@dataclass(eq=False, slots=True)
class _Entry:
    key: str | bytes
    document: str | bytes
    #: For one that may replace this document and no other; ``None``: an outcome, which replaces all but a success.
    seen: bytes | None = None
    #: What its job waits for; cancelled with the job, which waits on by another one.
    waiter: asyncio.Future[None] | None = None
    stored: bool = False
    error: Exception | None = None


class ResultWriter:
    """Stores the results of one app; used on the loop thread.

    Args:
        backend: The app's backend, of which it takes settings, keys and encoding.
        client: For the same Redis.
    """

    def __init__(self, backend: Any, client: redis.Redis) -> None:
        self._backend = backend
        self._client = client
        self._entries: deque[_Entry] = deque()
        self._writing: asyncio.Task[None] | None = None
        #: Of each script that Redis was given.
        self._digests: dict[str, str] = {}
        conf = backend.app.conf
        self._extended = bool(conf.find_value_for_key("extended", "result"))
        self._as_json = backend.serializer == "json"
        zone = backend.app.timezone
        #: One of the standard library's own tells its offset in a fraction of the time.
        self._timezone = UTC if str(zone) == "UTC" else zone
        #: Why Redis does not take results in batches; then Celery's backend has to.
        self.refused = ""

    @classmethod
    def for_backend(cls, backend: Any) -> ResultWriter | None:
        """Return a writer for Celery's own Redis backend; ``None`` for another, and what derives from it."""
        client = async_client(backend, connections=2)
        return cls(backend, client) if client is not None else None

    async def store(
        self, task_id: str, result: Any, request: Any, state: str = states.SUCCESS, traceback: str | None = None
    ) -> None:
        """Store a success, or a failure; returns when it is there. Waits for a server that is away.

        Raises:
            kombu.exceptions.EncodeError: The result cannot be encoded.
            redis.exceptions.ResponseError: Redis refuses it.
            asyncio.CancelledError: The job was abandoned meanwhile; or, inside its coroutine, cancelled.
        """
        document = self._encoded(task_id, result, request, state, traceback)
        await self._put(_Entry(self._backend.get_key_for_task(task_id), document))

    async def replace(self, provisional: ProvisionalState) -> None:
        """Store a provisional state in the place of the document that it has seen; returns once that was tried.

        Raises:
            redis.exceptions.ResponseError: Redis refuses it.
            asyncio.CancelledError: As in `store`.
        """
        document = provisional.replacement(self._backend)
        if document is not None:
            key = self._backend.get_key_for_task(provisional.task_id)
            await self._put(_Entry(key, document, seen=provisional.seen))

    async def _put(self, entry: _Entry) -> None:
        self._entries.append(entry)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="asyncworker-results")
        await self._wait_for(entry)

    async def close(self) -> None:
        """Close the connection. Nobody waits for a result any more."""
        await self._client.aclose()

    # -- the document --------------------------------------------------------------------------------------------

    def _encoded(self, task_id: str, result: Any, request: Any, state: str, traceback: str | None) -> str | bytes:
        backend = self._backend
        lean = not self._extended and request is not None
        plain = _PLAIN.get(type(result)) if lean and self._as_json and state == states.SUCCESS else None
        if plain is not None and not (request._children or request.group or request.parent_id):
            date_done = datetime.now(self._timezone).isoformat()
            return _PLAIN_DOCUMENT % (plain(result), date_done, encode_string(task_id))
        result = backend.encode_result(result, state)
        if lean:
            meta = self._lean_meta(result, request, state, traceback)
        else:
            meta = backend._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        if self._as_json:
            # What the encoder knows by itself comes out the same without kombu's additions.
            with contextlib.suppress(TypeError, ValueError):
                return json.dumps(meta)
            with contextlib.suppress(Exception):
                return str(dumps(meta))
        encoded: str | bytes = backend.encode(meta)
        return encoded

    def _lean_meta(self, result: Any, request: Any, state: str, traceback: str | None) -> dict[str, Any]:
        """Return what Celery's backend does where ``result_extended`` is off, without looking that up each time."""
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": [child.as_tuple() for child in request.children] if request._children else [],
            "date_done": datetime.now(self._timezone).isoformat(),
        }
        if request.group:
            meta["group_id"] = request.group
        if request.parent_id:
            meta["parent_id"] = request.parent_id
        return meta

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _wait_for(self, entry: _Entry) -> None:
        cancelled: BaseException | None = None
        while not entry.stored:
            entry.waiter = asyncio.get_running_loop().create_future()
            try:
                await entry.waiter
            except BaseException as exc:
                job = current_job.get()
                if isinstance(job, Job) and job.abandoned:
                    with contextlib.suppress(ValueError):
                        self._entries.remove(entry)
                    raise
                # Where the coroutine has ended, it comes too late.
                cancelled = exc if isinstance(job, Job) and job.coroutine is not None else None
        if entry.error is not None:
            raise entry.error
        if cancelled is not None:
            raise cancelled

    # -- writing -------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while self._entries:
                batch = self._next_batch()
                try:
                    await self._store_until_done(batch)
                except Exception as exc:
                    for entry in batch:
                        _settle(entry, exc)
                else:
                    for entry in batch:
                        _settle(entry, None)
        finally:
            self._writing = None

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._entries and len(batch) < MOST and size < MOST_BYTES:
            batch.append(self._entries.popleft())
            size += len(batch[-1].document)
        return batch

    async def _store_until_done(self, batch: list[_Entry]) -> None:
        # Safe to repeat: what an attempt has stored, the next one finds.
        for wait_s in waits():
            try:
                await self._store_batch(batch)
            except NoPermissionError as exc:
                self._refuse(exc)
                raise
            except Exception as exc:
                if refuses_for_now(exc):
                    await self._client.connection_pool.disconnect()  # the next may lead to another server
                elif not self._backend.exception_safe_to_retry(exc) or isinstance(exc, KeyError):
                    raise
                log_wait(f"storing {len(batch)} results", exc)
            else:
                return
            await asyncio.sleep(wait_s)

    def _refuse(self, reason: Exception) -> None:
        if not self.refused:
            self.refused = str(reason)
            logger.warning("Redis refuses results in batches (%s): storing one by one, as Celery does", reason)

    async def _store_batch(self, batch: list[_Entry]) -> None:
        replacing = [entry for entry in batch if entry.seen is not None]
        if replacing:
            pairs = [value for entry in replacing for value in (entry.document, entry.seen)]
            await self._run(REPLACE, replacing, pairs)
            batch = [entry for entry in batch if entry.seen is None]
        found = await self._run(STORE, batch, [entry.document for entry in batch]) if batch else None
        if not found:
            return
        # A state that was stored before; only a success stays.
        async with self._client.pipeline(transaction=True) as pipeline:
            for number, document in zip(found[::2], found[1::2], strict=True):
                if self._succeeded(document):
                    continue
                entry = batch[number - 1]
                pipeline.set(entry.key, entry.document, ex=self._backend.expires or None)
                pipeline.publish(entry.key, entry.document)
            await pipeline.execute()

    async def _run(self, script: str, entries: list[_Entry], values: list[Any]) -> Any:
        if script not in self._digests:
            self._digests[script] = await self._client.script_load(script)
        arguments = [*(entry.key for entry in entries), int(self._backend.expires or 0), *values]
        try:
            return await self._client.evalsha(self._digests[script], len(entries), *arguments)
        except NoScriptError:
            return await self._client.eval(script, len(entries), *arguments)

    def _succeeded(self, document: bytes | None) -> bool:
        if document is None:  # expired in that moment
            return False
        meta: Mapping[str, Any] = self._backend.decode(document)
        return bool(meta["status"] == states.SUCCESS)


def _settle(entry: _Entry, error: Exception | None) -> None:
    entry.stored, entry.error = True, error
    if entry.waiter is not None and not entry.waiter.done():
        entry.waiter.set_result(None)
