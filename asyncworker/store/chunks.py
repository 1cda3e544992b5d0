"""How results and keys are packed into rows, and read back with their checksum proved."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row

from asyncworker.errors import CheckpointCorrupt
from asyncworker.store.records import Batch, KeyChunk, ResultChunk, RunHold
from asyncworker.store.schema import checksum_of

__all__ = ["KEY_BYTES", "key_rows", "keys_from_row", "result_rows", "results_from_row", "row_rows"]

#: Length of the digest that stands for a key.
KEY_BYTES = 16

C = TypeVar("C", KeyChunk, ResultChunk)

_encode = msgspec.msgpack.Encoder().encode


def result_rows(run_id: str, chunks: list[ResultChunk], first_chunk: int) -> list[dict[str, Any]]:
    """Rows for the table of result chunks."""
    rows = []
    for number, chunk in enumerate(chunks, first_chunk):
        body = _encode(chunk)
        rows.append(
            {
                "run_id": run_id,
                "chunk": number,
                "first_index": chunk.indexes[0],
                "body_bytes": len(body),
                "checksum": checksum_of(body),
                "body": body,
            }
        )
    return rows


def key_rows(hold: RunHold, chunks: list[KeyChunk], first_chunk: int) -> list[dict[str, Any]]:
    """Rows for the table of key chunks."""
    bodies = [_encode(chunk) for chunk in chunks]
    return [
        {
            "run_id": hold.run_id,
            "chunk": number,
            "attempt": hold.attempt,
            "checksum": checksum_of(body),
            "body": body,
        }
        for number, body in enumerate(bodies, first_chunk)
    ]


def row_rows(hold: RunHold, batch: Batch) -> list[dict[str, Any]]:
    """Rows for the table of what was read of a source: one at most."""
    return [{"run_id": hold.run_id, "first_row": batch.first_row, "body": batch.rows}] if batch.rows else []


def results_from_row(row: Row[Any]) -> ResultChunk:
    """The chunk of a row.

    Raises:
        CheckpointCorrupt: The row cannot be what was written.
    """
    return _decoded(row, ResultChunk)


def keys_from_row(row: Row[Any]) -> KeyChunk:
    """The chunk of a row.

    Raises:
        CheckpointCorrupt: The row cannot be what was written.
    """
    return _decoded(row, KeyChunk)


def _decoded(row: Row[Any], kind: type[C]) -> C:
    body = bytes(row.body)
    if checksum_of(body) == row.checksum:
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError:
            pass  # Reported below: a checksum that fits a body of another kind is no better than none.
    raise CheckpointCorrupt(f"run {row.run_id}: {kind.__name__} {row.chunk} cannot be what was written")
