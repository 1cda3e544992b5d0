"""Options of whole folders: keywords of the functions are fields of the values, and wrong values are refused."""

from __future__ import annotations

from typing import Any

import pytest

from asyncworker.errors import SettingsError
from asyncworker.sftp.options import PoolOptions
from asyncworker.sftp.sync import SyncOptions
from asyncworker.sftp.transfer_options import (
    DownloadKeywords,
    DownloadOptions,
    SyncKeywords,
    UploadKeywords,
    UploadOptions,
)


def names(of: type) -> set[str]:
    return set(of.__dataclass_fields__)  # type: ignore[attr-defined]


def keywords(of: type) -> set[str]:
    return set(of.__annotations__) - set(PoolOptions.__annotations__)


def test_each_keyword_is_a_field_and_the_other_way_round() -> None:
    assert keywords(DownloadKeywords) == names(DownloadOptions)
    assert keywords(UploadKeywords) == names(UploadOptions)
    assert keywords(SyncKeywords) == names(DownloadOptions) | names(UploadOptions) | names(SyncOptions)
    assert not names(DownloadOptions) & set(PoolOptions.__annotations__)


@pytest.mark.parametrize(
    "options",
    [
        {"skip": "sometimes"},
        {"links": "maybe"},
        {"max_depth": -1},
        {"min_size_bytes": -1},
        {"max_size_bytes": "1M"},
        {"retries": None},
        {"max_failures": -1},
        {"at_once": 0},
        {"paths": "a.xml"},
    ],
)
def test_a_value_that_is_not_allowed_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        DownloadOptions(**options)
    with pytest.raises(SettingsError, match=next(iter(options))):
        UploadOptions.split(options)


def test_patterns_of_an_iterator_are_there_each_time() -> None:
    options = DownloadOptions(include=iter(["*.xml"]), filters=iter(["- a"]))
    for _ in range(2):
        assert options.selection.wants("b.xml", 1)
        assert not options.selection.wants("a", 1)
        assert not options.selection.wants("b.txt", 1)
