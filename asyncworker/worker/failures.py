"""Failures as Celery keeps them, at the price of their text: `billiard.einfo.ExceptionInfo` without copies of code.

billiard copies every frame of a traceback so that it can be pickled on its way from a pool's process, with the
positions of all instructions of its code: half a megabyte for a task that fails, while hundreds wait until their
failures are stored. Here nothing is pickled: the code itself is referred to.
"""

from __future__ import annotations

import itertools
import sys
import traceback
import types
from typing import Any

from billiard import einfo as stock
from celery.app import trace

__all__ = ["ExceptionInfo", "TraceInfo", "is_formatted_as", "let_go_of_frames", "let_go_of_itself"]

_stock: Any = stock


class _Code(_stock._Code):  # type: ignore[misc]
    """Says what a traceback says of code; its positions are read when somebody asks."""

    def __init__(self, code: types.CodeType) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Any:
        if name == "_code":  # of one that is being unpickled
            raise AttributeError(name)
        return getattr(self._code, name)

    @property
    def co_positions(self) -> Any:
        return self._code.co_positions

    def __reduce__(self) -> Any:
        return _stock._Code(self._code).__reduce__()


class _Frame(_stock._Frame):  # type: ignore[misc]
    """Without its locals, as billiard's."""

    Code = _Code


class _Traceback(_stock.Traceback):  # type: ignore[misc]
    """One entry of a traceback."""

    Frame = _Frame
    #: Of the first entry: which exception was formatted with the traceback that it is a copy of; empty where the copy
    #: ends before that one.
    formatted: tuple[Any, ...] = ()

    def __init__(self, tb: types.TracebackType) -> None:
        self.tb_frame = self.Frame(tb.tb_frame)
        self.tb_lineno = tb.tb_lineno
        self.tb_lasti = tb.tb_lasti
        self.tb_next: Any = None

    @classmethod
    def of(cls, tb: types.TracebackType | None, exception: BaseException | None = None) -> Any:
        """Return a traceback without what its frames hold; one that is too long ends where billiard ends it."""
        copied: list[Any] = []
        while tb is not None and len(copied) < _stock.DEFAULT_MAX_FRAMES + 2:
            copied.append(cls(tb))
            tb = tb.tb_next
        if tb is not None:
            copied.append(_stock._Truncated())
        elif copied and exception is not None:
            copied[0].formatted = _identity(exception)
        for one, following in itertools.pairwise(copied):
            one.tb_next = following
        return copied[0] if copied else None


class ExceptionInfo(_stock.ExceptionInfo):  # type: ignore[misc]
    """An exception and its traceback, with the attributes of billiard's."""

    type: Any

    def __init__(self, exc_info: Any = None, internal: bool = False) -> None:
        self.type, exception, tb = exc_info or sys.exc_info()
        try:
            self.tb = _Traceback.of(tb, exception)
            self.traceback = "".join(traceback.format_exception(self.type, exception, tb))
        finally:
            del tb
        self.internal = internal
        self.exception = _stock.ExceptionWithTraceback(exception, self.traceback)


def _identity(exception: BaseException) -> tuple[Any, ...]:
    """Return what tells an exception, with those that it comes from, from others."""
    found = (exception, exception.__cause__, exception.__context__)
    return (*map(id, found), exception.__suppress_context__)


def is_formatted_as(exc_info: Any, text: str) -> bool:
    """Tell whether an `ExceptionInfo`'s own ``exc_info``, formatted now, comes out as the text that it has kept.

    Hooks of the task may have changed the exception since, and Celery may have put another one in its place.
    """
    _type, exception, tb = exc_info
    if type(tb) is not _Traceback or tb.formatted != _identity(exception):
        return False
    if isinstance(exception, NameError):
        return False  # what was perhaps meant is looked for in the frames, and copies have no variables
    try:
        said = [str(exception), *map(str, getattr(exception, "__notes__", ()))]
    except Exception:
        return False
    return all(each in text for each in said)


def _with_own_information(method: Any) -> Any:
    """Return a method of Celery's as it is, but for the class that it takes for an exception's information."""
    names = {**vars(trace), "ExceptionInfo": ExceptionInfo}
    own = types.FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
    own.__kwdefaults__ = method.__kwdefaults__
    own.__doc__ = method.__doc__ or "Handle it as Celery does."
    return own


class TraceInfo(trace.TraceInfo):
    """Handles what a task has raised; for `celery.app.trace.build_tracer`."""

    __slots__ = ()

    handle_retry = _with_own_information(trace.TraceInfo.handle_retry)
    handle_failure = _with_own_information(trace.TraceInfo.handle_failure)
    handle_reject = _with_own_information(trace.TraceInfo.handle_reject)
    handle_ignore = _with_own_information(trace.TraceInfo.handle_ignore)


def let_go_of_frames(exception: BaseException) -> None:
    """Part an exception, and those that it comes from, from the frames in which they were raised, once all was told.

    Those hold the exception in turn, and only the garbage collector would find them.
    """
    left: list[Any] = [exception]
    while left:
        found = left.pop()
        if isinstance(found, BaseException) and found.__traceback__ is not None:
            found.__traceback__ = None
            left += (found.__cause__, found.__context__, getattr(found, "exc", None))


def let_go_of_itself(exception: BaseException) -> None:
    """Part an exception that is among its own arguments, as Celery's Retry is, from itself, once all was told of it."""
    if any(arg is exception for arg in exception.args):
        exception.args = tuple(arg for arg in exception.args if arg is not exception)
