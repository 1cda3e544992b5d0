"""Whose an item's arguments are, and sources at their edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

import asyncworker
from asyncworker.iterate import Source, make_options, source_from_wire, source_of, source_of_rows
from asyncworker.iterate.ranges import part_of, ranges_of


@pytest.fixture
def app() -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("arguments", broker="memory://", set_as_current=False)
    asyncworker.install(app)
    yield app
    app.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.promise("item-has-its-own-arguments")
async def test_what_an_item_changes_in_its_arguments_nobody_else_sees(app: Celery[Any], kind: str) -> None:
    def change(options: Any, row: Any, sizes: Any) -> Any:
        seen = [list(options["names"]), dict(row), sorted(sizes)]
        options["names"].append("changed")
        row.clear()
        sizes.add(len(sizes))
        if asyncworker.current_item().attempt == 1:
            raise ValueError("once more")
        return seen

    async def change_async(options: Any, row: Any, sizes: Any) -> Any:
        return change(options, row, sizes)

    task = app.task(change_async if kind == "async" else change, name="change")
    fixed, rows = {"names": ["a"]}, [{"n": 1}, {"n": 2}]
    run = task.partial(options=fixed, sizes={7}).options(retries=1, backoff_s=0, concurrency=1)

    values = await run.iterate(row=rows).run()

    assert values == [[["a"], {"n": 1}, [7]], [["a"], {"n": 2}, [7]]]
    assert (fixed, rows) == ({"names": ["a"]}, [{"n": 1}, {"n": 2}])
    shared = await run.iterate(mode="product", row=[{"n": 1}, {"n": 2}]).run()
    assert shared == values


async def test_objects_that_are_no_containers_are_shared(app: Celery[Any]) -> None:
    class Client:
        pass

    @app.task
    async def see(client: Any, table: Any, n: int) -> Any:
        return client, table

    client, table = Client(), ([1], [2])
    for seen in await see.partial(client=client, table=table).iterate(n=[1, 2]).run():
        assert seen[0] is client
        assert seen[1] is table


async def test_a_row_that_names_a_fixed_argument_fails_its_item(app: Celery[Any]) -> None:
    @app.task
    async def see(n: int, m: int) -> Any:
        return n, m

    with pytest.raises(TypeError, match="n is both fixed and in the row"):
        await see.partial(n=1).iterate_kwargs([{"n": 2, "m": 3}]).run()


# -- sources -----------------------------------------------------------------------------------------------------------


def rows_of(source: Source) -> list[Any]:
    opened: Any = source.open()
    return list(opened)


@pytest.mark.parametrize("sizes", [s for n in (1, 2, 3) for s in itertools.product((0, 1, 3), repeat=n)])
@pytest.mark.parametrize("partitions", [1, 2, 5])
@pytest.mark.parametrize(
    "make", [list, tuple, lambda values: range(len(values)), lambda values: dict(enumerate(values))]
)
def test_partitions_of_any_product_are_the_whole_of_it(sizes: tuple[int, ...], partitions: int, make: Any) -> None:
    source = source_of({f"c{number}": make(list(range(size))) for number, size in enumerate(sizes)})
    whole = rows_of(source)
    assert source.total == len(whole)
    parts = [part_of(source, *each) for each in ranges_of(len(whole), partitions)]
    assert [row for part in parts for row in rows_of(part)] == whole


@pytest.mark.parametrize("values", [range(5, 0, -2), range(0, 5, -1), range(0), range(3, 3), range(-4, 4, 3)])
def test_ranges_of_any_step(values: range) -> None:
    source = source_from_wire(source_of({"n": values}).to_wire())
    assert source.total == len(values)
    assert [row["n"] for row in rows_of(source)] == list(values)


def test_a_range_without_a_step_is_no_source() -> None:
    with pytest.raises(asyncworker.errors.SourceError, match="not the data of a source"):
        source_from_wire({"kind": "product", "columns": [{"name": "n", "range": [0, 5, 0]}]})


@pytest.mark.parametrize("long", [range(10**7), range(10**30), range(10**30, 0, -1)])
def test_the_later_columns_of_a_product_are_read_lazily(long: range) -> None:
    source = source_of({"a": [1, 2], "b": long, "c": ["xy"]})
    rows: Any = source.open()
    assert [row["b"] for row in itertools.islice(rows, 3)] == list(long[:3])
    assert source.total == (2 * len(long) if len(range(10**7)) == 10**7 and long == range(10**7) else None)


def test_a_product_beyond_the_bound_of_combinations_keeps_its_order() -> None:
    columns = {"a": range(3), "b": range(150), "c": list(range(100)), "d": [1, 2]}
    expected = [dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]
    assert rows_of(source_of(columns)) == expected


def test_the_order_of_keyword_arguments_is_no_part_of_a_sources_identity() -> None:
    same = [
        (source_of_rows([{"a": 1, "b": {"c": 2, "d": 3}}]), source_of_rows([{"b": {"d": 3, "c": 2}, "a": 1}])),
        (source_of({"a": [1], "b": [2]}, mode="zip"), source_of({"b": [2], "a": [1]}, mode="zip")),
        (source_of({"a": [{"x": 1, "y": 2}]}), source_of({"a": [{"y": 2, "x": 1}]})),
        (source_of({"a": [{1: 1}]}), source_of({"a": [{1: 1}]})),
    ]
    for one, other in same:
        assert one.fingerprint() == other.fingerprint()
    others = [
        (source_of({"a": [1], "b": [2]}), source_of({"b": [2], "a": [1]})),
        (source_of({"a": {"x": 1, "y": 2}}), source_of({"a": {"y": 2, "x": 1}})),
        (source_of({"a": [1, 2]}), source_of({"a": [2, 1]})),
    ]
    for one, other in others:
        assert one.fingerprint() != other.fingerprint()


def test_the_order_of_fixed_arguments_is_no_part_of_a_runs_identity(app: Celery[Any]) -> None:
    from asyncworker.settings import load_settings
    from asyncworker.tasks.run_iterate import run_of

    @app.task(name="see")
    async def see(**arguments: Any) -> None:
        """Do nothing."""

    class Nowhere:
        payloads = None

    source = source_of({"n": [1]}).to_wire()
    orders: Any = [{"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}, {"a": 2, "b": {"c": 1, "d": 2}}]
    options: dict[str, Any] = {}
    assert make_options(**options)
    one, other, third = (
        run_of(
            app,
            "run",
            {"task": "see", "partial": partial, "source": source, "options": options},
            Nowhere(),  # type: ignore[arg-type]
            load_settings(conf=app.conf),
        ).fingerprint
        for partial in orders
    )
    assert one == other
    assert one != third
