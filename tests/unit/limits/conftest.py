"""Each test declares limits of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asyncworker.limits import limits


@pytest.fixture(autouse=True)
def no_limits() -> Iterator[None]:
    before = dict(limits)
    limits.clear()
    yield
    limits.clear()
    limits.update(before)
