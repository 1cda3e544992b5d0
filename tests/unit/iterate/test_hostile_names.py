"""What others name an item or a run reaches no terminal and no log as more than text on one line."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asyncworker.errors import ItemErrors
from asyncworker.iterate import source_of
from asyncworker.printable import printable
from asyncworker.store import Store
from tests.unit.iterate.running import execute

HOSTILE = ["a\x1b[2J\x1b[31m", "b\nrun forged: done", "c\r\x9b0m", "d\u202etxt.exe", "e\x00\x07", "\udcff"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_printable_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown[0] in (text[0], "\\")
    assert printable(shown) == shown


async def test_keys_messages_and_labels_are_one_line_of_text(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def call(row: dict[str, Any]) -> None:
        raise ValueError(row["x"])

    with caplog.at_level(logging.WARNING):
        outcome = await execute(call, source_of({"x": HOSTILE[:-1]}), store, key="x", name="nightly\x1b]0;owned\x07\n")
    lines = [record.getMessage() for record in caplog.records if "nightly" in record.getMessage()]
    assert len(lines) == len(HOSTILE) - 1
    assert all(line.isprintable() for line in lines)
    with pytest.raises(ItemErrors) as caught:
        outcome.raise_for_failures()
    assert caught.value.message.isprintable()
    # What is stored is what was given.
    failures = await store.errors("run")
    assert [failure.key for failure in failures][:2] == HOSTILE[:2]
    assert all(str(failure).isprintable() for failure in failures)
