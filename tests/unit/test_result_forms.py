"""What an item may return, in which form a caller gets it back, and what is refused before anything has run."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import math
import pathlib
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
import pytest
from celery import Celery
from pydantic import BaseModel

import asyncworker
from asyncworker.errors import SettingsError
from asyncworker.iterate import execute_run, make_options, source_of
from asyncworker.store import open_store
from asyncworker.tasks.payloads import decode, encode


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Model(BaseModel):
    path: pathlib.Path
    at: datetime.datetime | None = None


@dataclasses.dataclass
class Data:
    path: pathlib.Path
    inner: Any = None


@attrs.define
class Attrs:
    size: int


class Struct(msgspec.Struct):
    size: decimal.Decimal


class Pair(typing.NamedTuple):
    one: int
    two: str


class Scalar:
    """What numpy's scalars and arrays look like."""

    dtype = "int64"

    def tolist(self) -> Any:
        return 7


class Odd:
    pass


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
ID = uuid.uuid4()

FORMS = [
    (None, None),
    ((1, 2), [1, 2]),
    (Pair(1, "a"), [1, "a"]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1: "a"}.keys(), [1]),
    ({1: "a"}.values(), ["a"]),
    (collections.deque([1]), [1]),
    (range(3), [0, 1, 2]),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (collections.UserDict({"a": 1}), {"a": 1}),
    (b"\xff", b"\xff"),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"ab"), b"ab"),
    (NOW, NOW),
    (NOW.date(), NOW.date()),
    (NOW.time(), NOW.time()),
    (datetime.timedelta(seconds=90), "PT90S"),
    (decimal.Decimal("1.50"), decimal.Decimal("1.50")),
    (fractions.Fraction(1, 3), "1/3"),
    (ID, ID),
    (pathlib.Path("/a/b"), "/a/b"),
    (ipaddress.ip_address("::1"), "::1"),
    (Colour.RED, "red"),
    (Number.ONE, 1),
    (Data(pathlib.Path("/a"), Data(pathlib.Path("/b"))), {"path": "/a", "inner": {"path": "/b", "inner": None}}),
    (Attrs(3), {"size": 3}),
    (Struct(decimal.Decimal("1.5")), {"size": decimal.Decimal("1.5")}),
    (Model(path=pathlib.Path("/a"), at=NOW), {"path": "/a", "at": "2026-01-02T03:04:05Z"}),
    (Scalar(), 7),
    (math.inf, math.inf),
    ({1: 2, None: 3, False: 4}, {"1": 2, "null": 3, "false": 4}),
    ({NOW.date(): 1, ID: 2, Colour.RED: 3, pathlib.Path("/a"): 4}, {"2026-01-02": 1, str(ID): 2, "red": 3, "/a": 4}),
    ([{Colour.RED: {Data(pathlib.Path("/a")).path: {1, 2}}}], [{"red": {"/a": [1, 2]}}]),
    ({"__type__": "mine", "__value__": 1}, {"__type__": "mine", "__value__": 1}),
    ("\udcff", "\udcff"),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=[type(value).__name__ for value, _ in FORMS])
@pytest.mark.promise("values-come-back-in-one-form")
def test_a_value_comes_back_in_its_form(value: Any, form: Any) -> None:
    assert decode(encode(value)) == form


def test_not_a_number_comes_back_as_such() -> None:
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize("value", [Odd(), {(1, 2): 3}, 1j, iter([]), (n for n in "a"), [Odd()], {"a": {"b": Odd()}}])
def test_a_value_without_a_form_says_so_with_what_to_do(value: Any) -> None:
    with pytest.raises(TypeError, match=r"the item was run, but its value, of type .*options\(results='none'\)"):
        encode(value)


def test_what_loops_fails_its_item_too() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="cannot be stored"):
        encode(loop)


async def test_such_an_item_fails_and_the_others_are_stored(tmp_path: pathlib.Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path}/store.db")

    async def call(row: dict[str, Any]) -> Any:
        return row["n"]

    values = [value for value, _ in FORMS]
    source = source_of({"n": [*values, Odd()]})
    outcome = await execute_run(
        call, source, make_options(), store=store, run_id="forms", task="t", encode=encode, decode=decode
    )

    assert (outcome.progress.done, outcome.progress.failed) == (len(values), 1)
    assert [value async for _, value in store.results("forms", decode)] == [form for _, form in FORMS]
    await store.close()


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[Celery[Any]]:
    app: Celery[Any] = Celery("forms", broker="memory://", set_as_current=False)
    asyncworker.install(app)
    yield app
    app.close()


@pytest.mark.parametrize("bind", [True, False])
@pytest.mark.parametrize("kind", ["async", "sync", "autoretry"])
async def test_a_pydantic_task_is_an_item_as_it_is_a_task(app: Celery[Any], bind: bool, kind: str) -> None:
    async def with_self(self: Any, model: Model) -> Model:
        return Model(path=model.path / self.name)

    async def without(model: Model) -> Model:
        return Model(path=model.path / "t")

    def sync_with_self(self: Any, model: Model) -> Model:
        return Model(path=model.path / self.name)

    def sync_without(model: Model) -> Model:
        return Model(path=model.path / "t")

    functions = {"sync": (sync_without, sync_with_self)}
    options: dict[str, Any] = {"autoretry_for": (OSError,)} if kind == "autoretry" else {}
    body = functions.get(kind, (without, with_self))[bind]
    task = app.task(body, name="t", bind=bind, pydantic=True, **options)

    values = await task.partial().options(retries=1).iterate(model=[{"path": "/a"}]).run()

    assert values == [{"path": "/a/t", "at": None}]
    assert json.loads(encode(values[0])) == values[0]


@pytest.mark.parametrize(
    ("returned", "refused"),
    [
        (Odd, True),
        (list[Odd], True),
        (Odd | None, True),
        (complex, True),
        (Odd | int, False),
        (Data, False),
        (Model, False),
        (Attrs, False),
        (Struct, False),
        (Scalar, False),
        (dict[str, pathlib.Path], False),
        (Any, False),
        (None, False),
        (object, False),
        (collections.abc.Iterable, False),
    ],
)
@pytest.mark.promise("unstorable-results-are-refused")
def test_a_result_that_cannot_be_stored_is_refused_before_anything_is_sent(
    app: Celery[Any], returned: Any, refused: bool
) -> None:
    async def body(n: int) -> Any:
        return n

    body.__annotations__["return"] = returned
    task = app.task(body, name="t")
    sent = task.iterate(n=[1])
    if refused:
        with pytest.raises(SettingsError, match=r"t returns .*cannot be stored.*options\(results='none'\)"):
            sent.clone()
        task.partial().options(results="none").iterate(n=[1]).clone()
    else:
        sent.clone()
