"""Errors of a store URL say what is wrong, and keep its password."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from asyncworker.errors import AsyncWorkerError, StoreError
from asyncworker.store import open_store
from asyncworker.store.quiet import without_values


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg//u:s3cret@h/d",
        "u:s3cret@h/d",
        "postgresql+asyncpg://u:s3cret@h:port/d",
        "postgresql+asyncpg://u:s3cret@127.0.0.1:1/d",
        "postgresql+asyncpg://u:s3cret@127.0.0.1:99999999/d",
        "postgresql+asyncpg://u@127.0.0.1:1/d?password=s3cret",
        "postgresql+nothing://u:s3cret@h/d",
        "nothing://u:s3cret@h/d",
        "sqlite+aiosqlite://u:s3cret@h/",
        "postgresql+asyncpg://u:s3cret@h/d?no_such_option=1",
        "postgresql+asyncpg://u:s3cret@127.0.0.1:1/d?timeout=no&password=s3cret",
    ],
)
async def test_no_password_is_told(url: str) -> None:
    with pytest.raises(AsyncWorkerError) as caught:
        await open_store(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


async def test_what_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("something else entirely, and long enough to be looked at" * 99)
    with pytest.raises(StoreError) as caught:
        await open_store(f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}")
    assert str(caught.value).endswith("DatabaseError: file is not a database")


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ('<class "X">: bad\nDETAIL:  Failing row contains (s3cret,\n s3cret).', '<class "X">: bad'),
        ("bad\nDETAIL:  Key (a)=(s3cret) exists.\nHINT:  Use another.", "bad\nHINT:  Use another."),
        (
            "invalid input for query argument $5: 's3cret (x)' (expected str, got int)",
            "invalid input for query argument $5: ... (expected str, got int)",
        ),
        ('invalid input syntax for type integer: "s3cret"', "invalid input syntax for type integer: ..."),
        ('relation "asyncworker_run" does not exist', 'relation "asyncworker_run" does not exist'),
    ],
)
def test_a_message_is_kept_without_its_values(told: str, kept: str) -> None:
    assert without_values(told) == kept
