"""A source, back from the data it travelled as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asyncworker.errors import SourceError
from asyncworker.iterate.columns import Column, OpenTask, Pairs, TaskSource
from asyncworker.iterate.offload import OffloadedValues
from asyncworker.iterate.source import Source, make_source
from asyncworker.store import Payload, Payloads

__all__ = ["source_from_wire"]


class _Task(msgspec.Struct):
    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class _Offloaded(msgspec.Struct):
    kind: Literal["values", "pairs"]
    count: int
    a_line: Annotated[int, Meta(ge=1)]
    payload: Payload


class _Column(msgspec.Struct):
    name: str
    offloaded: _Offloaded | None = None
    range: tuple[int, int, int] | None = None
    values: list[Any] | None = None
    pairs: list[tuple[Any, Any]] | None = None
    task: _Task | None = None

    def unpacked(self, payloads: Payloads | None, decode: Callable[[bytes], Any]) -> Any:
        if self.offloaded is not None:
            if payloads is None:
                raise SourceError(
                    f"the values of {self.name} lie in the sender's payload store, and this worker has none: "
                    "set ASYNCWORKER_PAYLOAD_URL to the same place for both"
                )
            return OffloadedValues(msgspec.to_builtins(self.offloaded), payloads, decode)
        if self.range is not None:
            return range(*self.range)
        if self.pairs is not None:
            return Pairs(self.pairs)
        if self.task is not None:
            return TaskSource(self.task.task, tuple(self.task.args), self.task.kwargs)
        if self.values is not None:
            return self.values
        raise msgspec.ValidationError(f"column {self.name} has no values")


class _Source(msgspec.Struct):
    kind: Literal["product", "zip", "rows"]
    columns: list[_Column]


def source_from_wire(
    wire: dict[str, Any],
    open_task: OpenTask | None = None,
    *,
    payloads: Payloads | None = None,
    decode: Callable[[bytes], Any] = msgspec.json.decode,
) -> Source:
    """Make the source again that `Source.to_wire` took apart.

    Args:
        wire: The data.
        open_task: Starts the task of a `TaskSource`.
        payloads: Where long columns lie.
        decode: The reverse of what encoded them.

    Raises:
        SourceError: The data are of no source.
    """
    try:
        parsed = msgspec.convert(wire, _Source)
        columns = [Column(each.name, each.unpacked(payloads, decode), open_task) for each in parsed.columns]
    except ValueError as exc:  # of msgspec, and of a range without a step
        raise SourceError(f"not the data of a source: {exc}") from exc
    return make_source(parsed.kind, columns)
