"""Translation of database failures into asyncworker's errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import exc as sa

from asyncworker.errors import SQLConflict, SQLConnectError, SQLError, SQLRowsRefused
from asyncworker.sql.rows import SourceFailed

__all__ = ["translated"]

#: SQLSTATE (PostgreSQL, appendix A): serialization failure, deadlock, lock not available.
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
#: Classes of SQLSTATE: connection exception, operator intervention; data exception, integrity violation.
_NO_CONNECTION = ("08", "57P")
_ROWS = ("22", "23")


@contextmanager
def translated(what: Callable[[], str], table: str = "") -> Iterator[None]:
    """Raise SQLAlchemy's and the driver's errors as ours.

    Args:
        what: Says what was being done, as it stands when something goes wrong.
        table: The table, if there is one.
    """
    try:
        yield
    except SourceFailed as exc:
        raise exc.error from exc.error.__cause__
    except SQLError:
        raise
    except sa.TimeoutError as exc:
        raise SQLConnectError(f"{what()}: no connection came free: {exc}", table=table) from exc
    except sa.SQLAlchemyError as exc:
        kind = _kind(exc)
        raise kind(f"{what()}: {_said(exc)}", table=table) from exc
    except OSError as exc:
        raise SQLConnectError(f"{what()}: {type(exc).__name__}: {exc}", table=table) from exc
    except Exception as exc:
        if not _is_drivers(exc):
            raise
        raise _kind(exc)(f"{what()}: {_said(exc)}", table=table) from exc


def _is_drivers(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("asyncpg", "sqlite3", "aiosqlite")


def _cause(error: BaseException) -> BaseException:
    """Return the driver's own error; SQLAlchemy's message would hold the statement and everybody's data."""
    original = getattr(error, "orig", None)
    if not isinstance(original, BaseException):
        return error
    return original.__cause__ or original  # what SQLAlchemy makes of asyncpg's stands between


def _kind(error: Exception) -> type[SQLError]:
    cause = _cause(error)
    state = str(getattr(cause, "sqlstate", None) or "")
    if getattr(error, "connection_invalidated", False) or state.startswith(_NO_CONNECTION):
        return SQLConnectError
    if state in _CONFLICTS or "database is locked" in str(cause):
        return SQLConflict
    if state.startswith(_ROWS) or isinstance(error, sa.IntegrityError | sa.DataError):
        return SQLRowsRefused
    if isinstance(error, sa.StatementError) and not isinstance(error, sa.DBAPIError):
        return SQLRowsRefused  # a value that its column's type does not take
    if isinstance(cause, OSError) or type(cause).__name__ == "ConnectionDoesNotExistError":
        return SQLConnectError
    return SQLError


def _said(error: Exception) -> str:
    cause = _cause(error)
    said = f"{type(cause).__name__}: {cause}"
    where = getattr(cause, "context", None)  # PostgreSQL's: which line of a COPY
    return f"{said}; {where}" if isinstance(where, str) else said
