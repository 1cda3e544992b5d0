"""Processes that tests have not started themselves, and whether they still run."""

from __future__ import annotations

import contextlib

import psutil

__all__ = ["children_named", "has_ended"]


def children_named(name: str) -> list[psutil.Process]:
    """The processes of that name which this one has started, itself or through others; any may end meanwhile."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process is gone, or a zombie that its parent has yet to reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return True
