"""Large results: in a chunk stands where they lie."""

from __future__ import annotations

import msgspec

from asyncworker.errors import PayloadError
from asyncworker.loop import off_loop_async
from asyncworker.store.payloads import Payload, Payloads
from asyncworker.store.records import ResultChunk

__all__ = ["brought_back", "put_aside"]

#: Before the description of a payload, in the place of a value. A value is text of JSON, which never begins so.
_MARK = b"\0"


async def put_aside(run_id: str, chunks: list[ResultChunk], payloads: Payloads) -> list[ResultChunk]:
    """Write the large values of chunks to the payload store; returns the chunks as they go into the database.

    Raises:
        PayloadError: They cannot be written.
    """
    return [
        msgspec.structs.replace(chunk, values=await _small(run_id, chunk.values, payloads))
        if any(len(value) > payloads.over_bytes for value in chunk.values)
        else chunk
        for chunk in chunks
    ]


async def _small(run_id: str, values: list[bytes], payloads: Payloads) -> list[bytes]:
    small = []
    for value in values:
        if len(value) > payloads.over_bytes and not value.startswith(_MARK):
            payload = await off_loop_async(payloads.put_result, run_id, value)
            value = _MARK + msgspec.msgpack.encode(payload)
        small.append(value)
    return small


async def brought_back(value: bytes, payloads: Payloads | None) -> bytes:
    """Return a value of a chunk, from the payload store where it lies there.

    Raises:
        PayloadError: It cannot be read, or is not what was written.
    """
    if not value.startswith(_MARK):
        return value
    payload = msgspec.msgpack.decode(value[1:], type=Payload)
    if payloads is None:
        raise PayloadError(
            f"payload {payload.name} lies in the worker's payload store, and there is none here: "
            "set ASYNCWORKER_PAYLOAD_URL to the same place for both"
        )
    return await off_loop_async(payloads.get, payload)
