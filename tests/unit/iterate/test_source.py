"""Sources: what is taken, in which order it comes, what is refused, and how it travels."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SourceError
from asyncworker.iterate import Source, TaskSource, previous_result, source_from_wire, source_of, source_of_rows

VALUES = st.lists(st.one_of(st.integers(), st.text(), st.none(), st.booleans()), max_size=5)


async def rows(source: Source) -> list[dict[str, Any]]:
    return [row async for row in source.rows()]


def travelled(source: Source, open_task: Any = None) -> Source:
    return source_from_wire(json.loads(json.dumps(source.to_wire())), open_task)


def generated(values: Any) -> Iterator[Any]:
    yield from values


async def async_generated(values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "a", None], [1, "a", None]),
        ((1, 2), [1, 2]),
        (range(5, 0, -2), [5, 3, 1]),
        ({"a": 1, "b": 2}, [("a", 1), ("b", 2)]),
        ({"a": 1, "b": 2}.values(), [1, 2]),
        ({"b": 1, "a": 2}.keys(), ["b", "a"]),
        (iter([1, 2]), [1, 2]),
        (generated([1, 2]), [1, 2]),
        (map(str, [1, 2]), ["1", "2"]),
        ([], []),
    ],
)
async def test_one_keyword_goes_through_its_values(values: Any, expected: list[Any]) -> None:
    source = source_of({"x": values})
    wired = travelled(source)
    assert source.total == wired.total == len(expected)
    assert await rows(source) == await rows(wired) == [{"x": value} for value in expected]
    assert wired.fingerprint() == source.fingerprint() == travelled(wired).fingerprint()


async def test_an_async_generator_is_read_here_and_cannot_travel() -> None:
    source = source_of({"x": async_generated("ab")})
    assert source.is_async
    assert source.total is None
    with pytest.raises(
        SourceError, match=r"make it a task that is an async generator, or run the fan-out here with \.run"
    ):
        source.to_wire()
    assert await rows(source) == [{"x": "a"}, {"x": "b"}]


@given(st.lists(VALUES, min_size=1, max_size=4))
async def test_several_keywords_make_the_cross_product_the_last_fastest(columns: list[list[Any]]) -> None:
    names = "abcd"[: len(columns)]
    expected = [dict(zip(names, combination, strict=True)) for combination in itertools.product(*columns)]
    iterables: dict[str, Any] = dict(zip(names, columns, strict=True))
    source = source_of(iterables)
    assert source.total == len(expected)
    assert await rows(source) == await rows(travelled(source)) == expected
    for first in (iter(columns[0]), async_generated(columns[0])):
        assert await rows(source_of({**iterables, "a": first})) == expected


async def test_only_the_first_of_a_product_may_be_read_once() -> None:
    for once in (iter([1]), async_generated([1]), TaskSource("t")):
        with pytest.raises(SourceError, match=r"b .* can be read only once.*put it first, or make it a list"):
            source_of({"a": [1], "b": once})


async def test_zip_goes_in_step() -> None:
    source = source_of({"a": [1, 2], "b": ["xy", "z"]}, mode="zip")
    assert await rows(source) == await rows(travelled(source)) == [{"a": 1, "b": "xy"}, {"a": 2, "b": "z"}]
    mixed = source_of({"a": iter([1, 2]), "b": async_generated("xy"), "c": range(2)}, mode="zip")
    assert mixed.total == 2
    assert await rows(mixed) == [{"a": 1, "b": "x", "c": 0}, {"a": 2, "b": "y", "c": 1}]


async def test_zip_of_unequal_lengths_names_them() -> None:
    with pytest.raises(SourceError, match="a has 2 values, b has 3 values: mode='zip' needs equal lengths"):
        source_of({"a": [1, 2], "b": [1, 2, 3]}, mode="zip")
    for a in (iter([1, 2]), async_generated([1, 2])):
        with pytest.raises(SourceError, match="a ended after 2 values, b did not"):
            await rows(source_of({"a": a, "b": iter([1, 2, 3])}, mode="zip"))


async def test_rows_are_each_items_own_arguments() -> None:
    given_rows = [{"a": 1}, {"b": 2}]
    for made in (given_rows, iter(given_rows), async_generated(given_rows)):
        assert await rows(source_of_rows(made)) == given_rows
    source = source_of_rows(given_rows)
    assert await rows(travelled(source)) == given_rows
    assert source.total == 2


async def test_a_row_that_is_no_mapping_is_named() -> None:
    with pytest.raises(SourceError, match="row 1 is 5: expected a mapping of keyword arguments"):
        await rows(source_of_rows([{"a": 1}, 5]))
    with pytest.raises(SourceError, match="give an iterable of mappings"):
        source_of_rows({"a": 1})


async def coroutine() -> list[int]:
    return [1]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("abc", "one value of type str: give a list"),
        (b"abc", "one value of type bytes"),
        (5, "x is 5 of type int: expected a list"),
        (None, "x is None"),
        ({1, 2}, r"has no order to resume by: give sorted\(x\)"),
        (frozenset(), "frozenset"),
        (generated, "x is the function generated: call it"),
        (async_generated, "x is the function async_generated: call it"),
        (coroutine(), "x is a coroutine: await it first"),
    ],
)
def test_what_cannot_be_gone_through_is_refused_with_the_way_out(values: Any, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        source_of({"x": values})


def test_a_source_needs_a_keyword_and_a_known_mode() -> None:
    with pytest.raises(SourceError, match="at least one keyword"):
        source_of({})
    with pytest.raises(SourceError, match="mode is 'both'"):
        source_of({"x": [1]}, mode="both")  # type: ignore[arg-type]


# -- tasks as sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gives", ["list", "generator", "async generator", "awaitable", "dict"])
async def test_a_task_yields_or_returns_the_items(gives: str) -> None:
    opened = []

    def open_task(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        opened.append((name, args, kwargs))

        async def later() -> list[str]:
            return ["a", "b"]

        return {
            "list": ["a", "b"],
            "generator": generated("ab"),
            "async generator": async_generated("ab"),
            "awaitable": later() if gives == "awaitable" else None,
            "dict": {"a": 1},
        }[gives]

    source = source_of({"x": TaskSource("list_files", ("h",), {"deep": True}), "y": [1, 2]})
    values = [("a", 1)] if gives == "dict" else ["a", "b"]
    assert await rows(travelled(source, open_task)) == [{"x": value, "y": y} for value in values for y in (1, 2)]
    assert opened == [("list_files", ["h"], {"deep": True})]
    assert "task list_files" in source.name


async def test_a_task_that_gives_nothing_to_go_through_is_named() -> None:
    source = travelled(source_of({"x": TaskSource("t")}), lambda name, args, kwargs: 5)
    with pytest.raises(SourceError, match="x is 5 of type int"):
        await rows(source)
    with pytest.raises(SourceError, match=r"task t.*only where tasks are known"):
        await rows(source_of({"x": TaskSource("t")}))


async def test_the_previous_result_has_its_place_in_the_wire_form() -> None:
    source = source_of({"x": previous_result})
    assert source.to_wire() == {"kind": "product", "columns": [{"name": "x", "previous": True}]}
    with pytest.raises(SourceError, match="use it in a chain"):
        await rows(source)


# -- travelling --------------------------------------------------------------------------------------------------------


def test_a_range_travels_as_three_numbers() -> None:
    wire = source_of({"x": range(0, 10**9, 2)}).to_wire()
    assert wire == {"kind": "product", "columns": [{"name": "x", "range": [0, 10**9, 2]}]}


async def test_an_iterator_is_still_whole_once_it_has_been_made_to_travel() -> None:
    source = source_of({"x": iter("ab")})
    assert source.one_shot
    source.to_wire()
    assert not source.one_shot
    assert await rows(source) == [{"x": "a"}, {"x": "b"}]


async def test_pairs_with_keys_that_json_makes_lists_of_come_back_as_pairs() -> None:
    wire = json.loads(json.dumps({"kind": "product", "columns": [{"name": "x", "pairs": [[[1, 2], "v"]]}]}))
    assert await rows(source_from_wire(wire)) == [{"x": ([1, 2], "v")}]


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"kind": "other", "columns": []},
        {"kind": "product", "columns": [{"name": "x"}]},
        {"kind": "product", "columns": [{"name": "x", "range": [1]}]},
        {"kind": "product", "columns": "x"},
    ],
)
def test_data_of_no_source_are_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="not the data of a source"):
        source_from_wire(wire)


def test_a_fingerprint_tells_sources_and_arguments_apart() -> None:
    prints = [
        source_of({"x": [1, 2]}).fingerprint(),
        source_of({"x": [2, 1]}).fingerprint(),
        source_of({"x": ["1", "2"]}).fingerprint(),
        source_of({"y": [1, 2]}).fingerprint(),
        source_of({"x": [1], "y": [2]}).fingerprint(),
        source_of({"x": [1], "y": [2]}, mode="zip").fingerprint(),
        source_of({"x": TaskSource("t")}).fingerprint(),
        source_of({"x": TaskSource("t", (1,))}).fingerprint(),
        source_of({"x": range(1, 3)}).fingerprint(),
        source_of({"x": [1, 2]}).fingerprint(b"fixed"),
    ]
    assert len(set(prints)) == len(prints)
    assert (
        source_of({"x": [1, 2]}).fingerprint(b"a").split(".")[0]
        == source_of({"x": [9]}).fingerprint(b"a").split(".")[0]
    )


async def test_no_more_is_read_than_the_limit() -> None:
    pulled: list[int] = []
    closed: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            for number in range(100):
                pulled.append(number)
                yield number
        finally:
            closed.append("sync")

    async def anumbers() -> AsyncIterator[int]:
        try:
            for number in numbers():
                yield number
        finally:
            closed.append("async")

    for make, limit in ((numbers, 3), (anumbers, 3), (numbers, 0), (anumbers, 0), (anumbers, 100), (numbers, 200)):
        pulled.clear()
        source = source_of({"x": make()})
        source.limit = limit
        found = [row["x"] async for row in source.rows()]
        assert found == pulled == list(range(min(limit, 100)))
    source = source_of({"x": anumbers()})
    source.limit = 50
    closed.clear()
    opened: Any = source.open()
    assert await anext(opened) == {"x": 0}
    await opened.aclose()
    while "async" not in closed:
        await asyncio.sleep(0)
