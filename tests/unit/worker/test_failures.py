"""What a failure says is what billiard's says, without copies of code."""

from __future__ import annotations

import pickle
import sys
import traceback
import types
from typing import Any

import pytest
from billiard import einfo as stock

from asyncworker.worker.failures import ExceptionInfo, let_go_of_frames


def fail(depth: int) -> None:
    if depth:
        fail(depth - 1)
    raise ValueError(depth)


def raised(depth: int) -> tuple[Any, ...]:
    try:
        fail(depth)
    except ValueError:
        return sys.exc_info()
    raise AssertionError


def text(info: Any) -> str:
    return "".join(traceback.format_tb(info.tb))


@pytest.mark.parametrize("depth", [0, 3, 200])
def test_it_says_the_same(depth: int) -> None:
    raised_here = raised(depth)
    own, theirs = ExceptionInfo(raised_here), stock.ExceptionInfo(raised_here)
    assert (own.traceback, str(own), repr(own)) == (theirs.traceback, str(theirs), repr(theirs))
    assert (own.type, own.internal) == (theirs.type, theirs.internal)
    assert text(own) == text(theirs) == text(pickle.loads(pickle.dumps(own)))
    assert isinstance(own.tb, types.TracebackType)
    assert isinstance(own.tb.tb_frame.f_code, types.CodeType)


def test_it_keeps_no_frame_and_copies_no_code() -> None:
    own = ExceptionInfo(raised(3))
    tb, codes = own.tb, []
    while tb is not None:
        assert vars(tb.tb_frame.f_code).keys() == {"_code"}
        codes.append(tb.tb_frame.f_code._code)
        tb = tb.tb_next
    assert codes == [raised.__code__, *[fail.__code__] * 4]


def test_an_exception_is_parted_from_its_frames_with_those_that_it_comes_from() -> None:
    try:
        try:
            fail(1)
        except ValueError as exc:
            raise KeyError("outer") from exc
    except KeyError as exc:
        found: BaseException = exc
    cause = found.__cause__
    assert cause is not None
    let_go_of_frames(found)
    assert (found.__traceback__, cause.__traceback__) == (None, None)
    cause.__context__ = found  # a cycle ends as well
    let_go_of_frames(found)
