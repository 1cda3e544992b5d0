"""Exceptions that are hard to report or to pass on: they fail what raised them, and nothing is lost or passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from asyncworker.errors import SourceError
from asyncworker.iterate import RunOutcome, execute_run, make_options, source_of


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoTextAtAll(BaseException):
    def __str__(self) -> str:
        raise KeyboardInterrupt("no text")


class TextOfAnotherType(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class NoModule(Exception):
    pass


NoModule.__module__ = None  # type: ignore[assignment]

ODD = [NoText, NoTextAtAll, TextOfAnotherType]


async def run(call: Any, values: Any, **options: Any) -> RunOutcome:
    return await asyncio.wait_for(execute_run(call, source_of({"n": values}), make_options(**options)), 30)


async def echo(row: dict[str, Any]) -> Any:
    return row["n"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", [0, 3])
async def test_a_source_whose_error_has_no_text_fails_the_run(odd: type[BaseException], before: int) -> None:
    async def one_by_one() -> AsyncIterator[int]:
        for n in range(before):
            yield n
        raise odd

    def at_once() -> Iterator[int]:
        yield from range(before)
        raise odd

    for source in (one_by_one(), at_once()):
        told = f"raised after {before} items: .*{odd.__name__}: <its text cannot be had"
        with pytest.raises(SourceError, match=told):
            await run(echo, source)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_item_that_awaits_what_raises_generator_exit_fails_alone(concurrency: int) -> None:
    async def leave() -> None:
        raise GeneratorExit

    async def call(row: dict[str, Any]) -> int:
        if row["n"] % 2:
            await asyncio.create_task(leave())
        return int(row["n"])

    outcome = await run(call, range(10), concurrency=concurrency, retries=1, backoff_s=0.0, retry_on=GeneratorExit)
    assert [value for _, value in outcome.results or []] == [0, 2, 4, 6, 8]
    assert [(each.index, each.type, each.attempt) for each in outcome.failures] == [
        (n, "GeneratorExit", 2) for n in range(1, 10, 2)
    ]
    assert outcome.progress.complete


async def test_an_exception_of_no_module_is_raised_as_itself() -> None:
    async def call(row: dict[str, Any]) -> None:
        raise NoModule("odd")

    outcome = await run(call, [1])
    with pytest.raises(NoModule):
        outcome.raise_for_failures()
