"""Sizes as people write and read them: 1.5M, in steps of 1024."""

from __future__ import annotations

import math

__all__ = ["human"]

_UNITS = "KMGTPE"


def human(size_bytes: int) -> str:
    """Return a size as ``ls -h`` shows it: three figures at most, rounded up."""
    if size_bytes < 1024:
        return str(size_bytes)
    value, unit = float(size_bytes), ""
    for unit in _UNITS:  # noqa: B007  (the last one is needed)
        value /= 1024
        if value < 1023.5:
            break
    tenths = math.ceil(value * 10) / 10
    return f"{tenths:.1f}{unit}" if tenths < 10 else f"{math.ceil(value)}{unit}"
