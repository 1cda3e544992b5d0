"""Runs the coroutine of an ``asyncworker sftp`` command."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from asyncworker.cli.interruptible import run_interruptible
from asyncworker.printable import printable
from asyncworker.sftp.pool import open_pools

__all__ = ["run_async"]

T = TypeVar("T")

_SHOWN = 20


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, or until SIGINT, SIGTERM or SIGHUP; see :func:`run_interruptible`."""
    return run_interruptible(main, _left)


def _left() -> str:
    """Remove temporary files here, and name the others."""
    stays: list[str] = []
    for pool in list(open_pools):
        stays += pool._remove_here()
    if not stays:
        return ""
    shown = [printable(path) for path in stays[:_SHOWN]]
    more = f"\n  and {len(stays) - _SHOWN:,} more" if len(stays) > _SHOWN else ""
    return (
        "not cleaned up; the next run into the same folder uses or removes:"
        + "".join(f"\n  {path}" for path in shown)
        + more
    )
