"""A failure's log line says what Celery's does, though its traceback was formatted before."""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.utils.log import ColorFormatter

from asyncworker.worker.failure_log import share_traceback_text
from asyncworker.worker.failures import ExceptionInfo, TraceInfo

LOGGER = logging.getLogger("celery.app.trace")


class Reported(Exception):
    """Says more than its arguments."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.told = number

    def __str__(self) -> str:
        return f"first line of {self.told}\nsecond line"


class Mute(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError


def plain() -> None:
    raise ValueError("plain")


def deep(left: int = 400) -> None:
    if left:
        deep(left - 1)
    plain()


def caused() -> None:
    try:
        plain()
    except ValueError as exc:
        raise KeyError("outer") from exc


def in_context() -> None:
    try:
        plain()
    except ValueError:
        raise Reported(7)  # noqa: B904


def suppressed() -> None:
    try:
        plain()
    except ValueError:
        raise Reported(7) from None


def grouped() -> None:
    try:
        plain()
    except ValueError as exc:
        raise ExceptionGroup("some\nof them", [exc, KeyError(1)]) from None


def noted() -> None:
    try:
        plain()
    except ValueError as exc:
        exc.add_note("a note\nof two lines")
        raise


def mute() -> None:
    raise Mute


def misspelt() -> None:
    value = 1
    print(valeu, value)  # type: ignore[name-defined]  # noqa: F821


def unreadable() -> None:
    compile("1 +", "<given>", "exec")


def empty() -> None:
    raise ValueError


def failure(fail: Callable[[], None]) -> ExceptionInfo:
    try:
        fail()
    except Exception:
        return ExceptionInfo(sys.exc_info())
    raise AssertionError("it has not failed")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    before = LOGGER.filters[:], LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    LOGGER.filters[:], LOGGER.handlers[:], LOGGER.propagate = [], [], False
    LOGGER.setLevel(logging.INFO)
    yield LOGGER
    LOGGER.filters[:], LOGGER.handlers[:], LOGGER.propagate = before[:3]
    LOGGER.setLevel(before[3])


class Handler(logging.StreamHandler[io.StringIO]):
    """Keeps what it has written, and of what."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        super().emit(record)


def handler_of(logger: logging.Logger, formatter: logging.Formatter | None, *filters: Any) -> Handler:
    handler = Handler()
    handler.setFormatter(formatter)
    for each in filters:
        handler.addFilter(each)
    # pytest adds handlers of its own, whose formatter is not a stock one.
    logger.handlers[:] = [*(each for each in logger.handlers if isinstance(each, Handler)), handler]
    return handler


def log_to(logger: logging.Logger, formatter: logging.Formatter | None, *filters: Any) -> io.StringIO:
    return handler_of(logger, formatter, *filters).stream


def report(information: ExceptionInfo) -> None:
    """Log it as Celery's tracer does."""
    app = Celery("test", set_as_current=False)
    task = app.task(plain, name="t.plain")
    TraceInfo(states.FAILURE)._log_error(task, Context(id="7", args=[], kwargs={}, hostname="here"), information)


def frames_formatted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each traceback whose frames are formatted."""
    found: list[Any] = []
    stock = traceback.TracebackException.__init__

    def counting(self: Any, exc_type: Any, exc_value: Any, exc_traceback: Any, **options: Any) -> None:
        found.append(exc_traceback)
        stock(self, exc_type, exc_value, exc_traceback, **options)

    monkeypatch.setattr(traceback.TracebackException, "__init__", counting)
    return found


@pytest.mark.parametrize(
    "fail",
    [
        plain, deep, caused, in_context, suppressed, grouped, noted, mute, misspelt, unreadable, empty,
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "formatter", [None, logging.Formatter("%(levelname)s %(message)s"), ColorFormatter("%(message)s")]
)
def test_the_text_is_celerys(logger: logging.Logger, fail: Callable[[], None], formatter: Any) -> None:
    information = failure(fail)
    stream = log_to(logger, formatter)
    report(information)
    stocks = stream.getvalue()
    stream.seek(0), stream.truncate()
    share_traceback_text()
    report(information)
    assert stream.getvalue() == stocks
    assert "Traceback (most recent call last)" in stocks


@pytest.mark.parametrize("fail", [plain, in_context, suppressed, noted, caused, empty])
def test_no_frame_is_formatted_again(
    logger: logging.Logger, fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    information = failure(fail)
    log_to(logger, ColorFormatter("%(message)s"))
    log_to(logger, logging.Formatter("%(message)s"))
    share_traceback_text()
    formatted = frames_formatted(monkeypatch)
    report(information)
    assert formatted == []
    assert failure(fail).traceback  # the count counts
    assert formatted


def test_a_record_has_what_celery_gives_it(logger: logging.Logger) -> None:
    handler = handler_of(logger, None)
    information = failure(caused)
    report(information)
    share_traceback_text()
    report(information)
    stocks, own = handler.records
    unlike = {"created", "msecs", "relativeCreated", "exc_text", "taskName"}
    assert {k: v for k, v in vars(own).items() if k not in unlike} == {
        k: v for k, v in vars(stocks).items() if k not in unlike
    }
    assert own.exc_info is not None
    assert isinstance(own.exc_info[1], KeyError)
    assert own.exc_text == information.traceback.removesuffix("\n")


class OneLine(logging.Formatter):
    """From the logging cookbook."""

    def formatException(self, ei: Any) -> str:
        return repr(super().formatException(ei))


class Json(logging.Formatter):
    """Looks at the exception itself."""

    def format(self, record: logging.LogRecord) -> str:
        assert record.exc_info is not None and record.exc_text is None
        return json.dumps({"kind": str(record.exc_info[0]), "traceback": self.formatException(record.exc_info)})


class Silent(logging.Formatter):
    """Leaves tracebacks out."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_info = None
        return super().format(record)


def without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


@pytest.mark.parametrize("formatter", [OneLine(), Json(), Silent()])
@pytest.mark.parametrize("beside", [True, False])
def test_formatters_of_ones_own_find_what_they_found(
    logger: logging.Logger, formatter: logging.Formatter, beside: bool
) -> None:
    information = failure(caused)
    streams = [log_to(logger, formatter)]
    if beside:
        streams.append(log_to(logger, logging.Formatter("%(message)s")))
    report(information)
    stocks = [stream.getvalue() for stream in streams]
    share_traceback_text()
    report(information)
    assert [stream.getvalue() for stream in streams] == [2 * text for text in stocks]


@pytest.mark.parametrize("where", ["handler", "logger"])
def test_a_filter_may_leave_the_traceback_out(logger: logging.Logger, where: str) -> None:
    share_traceback_text()
    stream = log_to(logger, None, *([without_traceback] if where == "handler" else []))
    if where == "logger":
        logger.addFilter(without_traceback)
    report(failure(caused))
    assert "Traceback" not in stream.getvalue()
    assert "raised unexpected" in stream.getvalue()


def _add_note(exception: BaseException) -> None:
    exception.add_note("added by a hook")


def _set_arguments(exception: BaseException) -> None:
    exception.args = ("changed by a hook",)


def _set_cause(exception: BaseException) -> None:
    exception.__cause__ = OSError("found by a hook")


@pytest.mark.parametrize("change", [_add_note, _set_arguments, _set_cause])
def test_what_a_hook_has_changed_is_told(logger: logging.Logger, change: Callable[[BaseException], None]) -> None:
    information = failure(plain)
    change(information.exception.exc)
    share_traceback_text()
    stream = log_to(logger, None)
    report(information)
    assert "by a hook" in stream.getvalue()
