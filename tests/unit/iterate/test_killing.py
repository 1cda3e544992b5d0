"""Runs that are killed at random points and gone on with, on SQLite."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import pytest
from hypothesis import settings

from asyncworker.store import open_store
from tests.unit.iterate.killing import killed_and_resumed, killings


@settings(max_examples=60)
@killings
@pytest.mark.promise("killed-run-resumes")
def test_a_run_killed_and_resumed_equals_an_undisturbed_one(**example: Any) -> None:
    async def scenario(folder: str) -> None:
        store = await open_store(f"sqlite+aiosqlite:///{folder}/store.sqlite")
        try:
            await killed_and_resumed(store, **example)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))
