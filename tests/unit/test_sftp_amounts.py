"""Sizes, lengths of time and moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from asyncworker.cli.sftp.amounts import AGE, DURATION, RATE, SIZE


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("1k", 1024),
        ("1K", 1024),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("1.5M", 1536 * 1024),
        (".5G", 512 * 1024**2),
        ("2 MB", 2_000_000),
        ("1t", 1024**4),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "1x", "-1", "1,5M", "1e3", "0x10", "1iM", "nan", "inf", "1.", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("1.5m", 90), ("2h", 7200), ("1d12h", 129_600), ("250ms", 0.25), ("1w", 604_800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "5x", "h", "1h-2m", "nan"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no length of time"):
        DURATION.convert(text, None, None)


def test_ages_and_moments() -> None:
    before = datetime.now(UTC)
    two_days_ago = AGE.convert("2d", None, None)
    assert before <= two_days_ago + timedelta(days=2) <= datetime.now(UTC)
    assert AGE.convert("2026-11-30T12:00Z", None, None) == datetime(2026, 11, 30, 12, tzinfo=UTC)
    zone = timezone(timedelta(hours=2))
    assert AGE.convert("2026-11-30 12:00:01+02:00", None, None) == datetime(2026, 11, 30, 12, 0, 1, tzinfo=zone)
    assert AGE.convert("2026-11-30", None, None) == datetime(2026, 11, 30).astimezone()


@pytest.mark.parametrize("text", ["", "2", "20261130", "yesterday", "2026-13-01", "2026-11-30T25:00", "99999999w"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        AGE.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100", 100 * 1024),
        ("1.5", 1536),
        ("1M", 1024**2),
        ("1MB", 10**6),
        ("500B", 500),
        (" 2k ", 2048),
        ("1GiB", 1024**3),
    ],
)
def test_a_rate_without_a_unit_is_in_kib(text: str, rate: int) -> None:
    assert RATE.convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["", "0", "0B", "0.5B", "-1", "fast", "1.2.3", "10/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        RATE.convert(text, None, None)
