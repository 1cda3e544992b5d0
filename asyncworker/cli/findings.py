"""Findings of the checks of ``asyncworker doctor``."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Finding", "State", "broken", "fine", "told", "warning"]


class State(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(msgspec.Struct, frozen=True):
    """One line of the answer.

    Attributes:
        check: What was looked at.
        state: How bad it is.
        text: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    check: str
    state: State
    text: str
    advice: str = ""


def fine(check: str, text: str) -> Finding:
    """All is well, or a fact worth knowing."""
    return Finding(check, State.OK, text)


def warning(check: str, text: str, advice: str) -> Finding:
    """It works, and may hurt one day."""
    return Finding(check, State.WARNING, text, advice)


def broken(check: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, State.BROKEN, text, advice)


def told(exc: BaseException) -> str:
    """Return an exception in one line."""
    if isinstance(exc, SystemExit):  # how a Celery command would have ended, with its one line
        return str(exc.code).removeprefix("asyncworker: ")
    text = " ".join(str(exc).split())
    return text or type(exc).__name__
