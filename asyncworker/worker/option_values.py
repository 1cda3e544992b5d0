"""Refuse values of the worker command's options that cannot work, before anything is started or detached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryOption
from celery.utils.nodenames import default_nodename, host_format, node_format

from asyncworker.errors import SettingsError

__all__ = ["CheckingOption", "check_time_limits", "check_values"]

#: Celery takes 0 for "not given", and a negative number for what it says.
_COUNTS = ("concurrency", "prefetch_multiplier", "heartbeat_interval", "max_tasks_per_child", "max_memory_per_child")
_TIME_LIMITS = ("time_limit", "soft_time_limit")
_FILES = ("pidfile", "logfile", "statedb")


class CheckingOption(CeleryOption):
    """An option that checks the others: as they were typed, since Celery's own callbacks replace a 0."""

    def handle_parse_result(self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]) -> Any:
        """Check all options that were typed, then take this one."""
        try:
            check_values(opts)
        except SettingsError as exc:
            raise SystemExit(f"asyncworker: {exc}") from None
        return super().handle_parse_result(ctx, opts, args)


def check_values(given: Mapping[str, Any]) -> None:
    """Check numbers and paths, as text or converted; what is no number at all is left to click.

    Args:
        given: Options of ``celery worker``, by the names under which click passes them on.

    Raises:
        SettingsError: Names the option, its value and what was expected.
    """
    for name in _COUNTS:
        _check(name, given.get(name), int, lambda number: number >= 1, "1 or more")
    for name in _TIME_LIMITS:
        _check_time_limit(_flag(name), given.get(name))
    if isinstance(autoscale := given.get("autoscale"), str):
        _check_autoscale(autoscale)
    hostname = host_format(default_nodename(given.get("hostname") or ""))
    for name in _FILES:
        if isinstance(path := given.get(name), str) and path:
            _check_file(_flag(name), Path(node_format(path, hostname)))


def check_time_limits(conf: Any) -> None:
    """Check the time limits of an app's configuration.

    Raises:
        SettingsError: Names the setting.
    """
    for name in ("task_time_limit", "task_soft_time_limit"):
        _check_time_limit(name, conf.get(name))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check(name: str, value: Any, kind: Callable[[Any], int], is_good: Callable[[int], bool], expected: str) -> None:
    try:
        number = kind(value)
    except (TypeError, ValueError):  # not given, or no number, which click says
        return
    if not is_good(number):
        raise SettingsError(f"{_flag(name)} is {value}: expected {expected}")


def _check_time_limit(name: str, value: Any) -> None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return
    if not math.isfinite(seconds) or seconds < 0:
        raise SettingsError(f"{name} is {value}: expected a finite number of seconds; 0 is no limit")


def _check_autoscale(value: str) -> None:
    try:
        numbers = sorted(int(part) for part in value.split(","))
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or numbers[0] < 0 or numbers[-1] < 1:
        raise SettingsError(f"--autoscale is {value}: expected MAX,MIN, two whole numbers, or MAX alone")


def _check_file(flag: str, path: Path) -> None:
    if path.is_dir():
        raise SettingsError(f"{flag} is {str(path)!r}: that is a folder, expected a file")
    if not path.parent.is_dir():
        raise SettingsError(f"{flag} is {str(path)!r}: there is no folder {str(path.parent.absolute())!r}")
