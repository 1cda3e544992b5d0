"""Sizes, lengths of time and moments as people write them, as types of options."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = ["AGE", "DURATION", "RATE", "SIZE"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgtp]?)(i?b)?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}

_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)"
_PARTS = re.compile(_PART, re.ASCII)
_DURATION = re.compile(f"(?:{_PART})+", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in some versions only
    """Bytes: ``100``, ``1K`` and ``1KiB`` are in steps of 1024, ``1KB`` of 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is no size: 100, 10K, 1.5G, 10KiB (steps of 1024) or 10KB (of 1000) is", param, ctx)
        number, unit, suffix = found.groups()
        step = 1000 if unit and (suffix or "").lower() == "b" else 1024
        return int(float(number) * step ** _POWERS[unit.lower()])


class _Rate(_Size):
    """Bytes a second, as sizes are written; but a plain number is KiB, as rsync and rclone have it."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[\d.]+\s*", value, re.ASCII):
            value += "K"
        rate = super().convert(value, param, ctx)
        if rate < 1:
            self.fail(f"{value!r} would move nothing", param, ctx)
        return rate


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic in some versions only
    """Seconds: ``30``, ``1.5m``, ``1h30m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = value if isinstance(value, float) else _seconds(value)
        if seconds is None or seconds <= 0:
            self.fail(f"{value!r} is no length of time: 30 (seconds), 1.5m, 2h or 1d12h is", param, ctx)
        return seconds


class _Age(click.ParamType):  # type: ignore[type-arg]  # generic in some versions only
    """A length of time, ``2d``, or a moment, ``2026-11-30`` or ``2026-11-30T12:00Z``; without a zone in local time."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        # A bare number is neither: fromisoformat takes 20261130 for a day, others might mean seconds.
        if moment is not None and not value.isdecimal():
            return moment.astimezone()
        seconds = None if value.isdecimal() else _seconds(value)
        if seconds is None:
            self.fail(
                f"{value!r} is neither a length of time (90m, 3h, 2d, 1w) nor a moment (2026-11-30T12:00)", param, ctx
            )
        try:
            return datetime.now(UTC) - timedelta(seconds=seconds)
        except OverflowError:
            self.fail(f"{value!r} is too long ago", param, ctx)


def _seconds(text: str) -> float | None:
    text = text.strip().lower()
    if re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII):
        return float(text)
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))


SIZE = _Size()
RATE = _Rate()
DURATION = _Duration()
AGE = _Age()
