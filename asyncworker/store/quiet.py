"""Keep what is stored out of a database's errors: they are raised, logged, and kept as the failures of others."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["quieten", "said", "without_values"]

#: What PostgreSQL and asyncpg quote: the row that failed, the argument or text that is not of its type.
_DETAILS = re.compile(r"\s*^DETAIL: .*?(?=\s^HINT: |\Z)", re.DOTALL | re.MULTILINE)
_ARGUMENT = re.compile(r"(invalid input for query argument \$\d+)(?:\s*in element #\d+[^:]*)?: .*(?= \()", re.DOTALL)
_SYNTAX = re.compile(r'(invalid input syntax for (?:type )?\w[\w ]*|out of range for type [\w ]+): ".*"', re.DOTALL)


def quieten(engine: AsyncEngine) -> None:
    """Have an engine's errors say what is wrong, and not with which values; ``hide_parameters`` hides the others."""
    event.listen(engine.sync_engine, "handle_error", _quieten)


def _quieten(context: ExceptionContext) -> None:
    error: Any = context.original_exception
    while error is not None:
        if getattr(error, "detail", None):
            error.detail = None
        error.args = tuple(without_values(arg) if isinstance(arg, str) else arg for arg in error.args)
        error = error.__cause__
    shown: Any = context.sqlalchemy_exception
    if shown is not None:
        shown.args = tuple(without_values(arg) if isinstance(arg, str) else arg for arg in shown.args)


def said(error: BaseException) -> str:
    """Return what the database says, in one line; SQLAlchemy adds its statement and a link."""
    original = getattr(error, "orig", None) or error
    return f"{type(error).__name__}: {' '.join(str(original).split())}"


def without_values(text: str) -> str:
    """Return a message of a database without the values in it."""
    text = _DETAILS.sub("", text)
    text = _ARGUMENT.sub(r"\1: ...", text)
    return _SYNTAX.sub(r"\1: ...", text).rstrip()
