"""Options: what is not allowed says what it is, and what is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from asyncworker.errors import SettingsError
from asyncworker.iterate import IterateOptions, exception_names, make_options


class Outer:
    class InnerError(Exception):
        pass


def test_defaults() -> None:
    options = make_options()
    assert options == IterateOptions()
    assert (options.concurrency, options.on_error, options.results) == (100, "collect", "stored")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("concurrency", 0, "concurrency is 0: expected `int` >= 1"),
        ("concurrency", "9", "concurrency is '9': expected `int`, got `str`"),
        ("retries", -1, "retries is -1: expected `int` >= 0"),
        ("item_timeout_s", 0, "item_timeout_s is 0: expected `float` > 0"),
        ("item_timeout_s", float("nan"), "item_timeout_s is nan: expected `float` > 0"),
        ("total_timeout_s", float("inf"), "total_timeout_s is inf: expected `float` <= "),
        ("backoff_s", 1e300, "backoff_s is 1e+300: expected `float` <= "),
        ("limits", 5, "limits is 5: expected a list of limits"),
        ("on_error", "explode", "on_error is 'explode': expected one of 'collect', 'fail_fast'"),
        ("results", None, "results is None: expected one of 'stored', 'inline', 'none'"),
        ("retry_on", 5, "5 is not an exception class"),
        ("retry_on", ["ValueError"], "'ValueError' is not an exception class; give the class, or 'module:QualName'"),
        ("fail_on", [int], "<class 'int'> is not an exception class"),
        ("concurency", 5, "concurency: no such option of iterate; known: backoff_max_s, backoff_s"),
    ],
)
def test_a_wrong_option_names_itself_its_value_and_what_is_allowed(option: str, value: Any, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_options(**{option: value})
    assert reason in str(caught.value)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="another source has other partitions"):
        make_options(on_change="resume", partitions=2)
    assert make_options(on_change="restart", partitions=2).partitions == 2


def test_exception_classes_are_given_as_such_or_by_name() -> None:
    assert exception_names(OSError) == ("builtins:OSError",)
    assert exception_names([Outer.InnerError, "a:B"]) == (f"{__name__}:Outer.InnerError", "a:B")
    assert exception_names(()) == ()


def test_options_travel_without_their_defaults() -> None:
    options = make_options(concurrency=5, retry_on=OSError, key="path")
    wire = msgspec.to_builtins(options)
    assert wire == {"concurrency": 5, "retry_on": ["builtins:OSError"], "key": "path"} or wire == {
        "concurrency": 5,
        "retry_on": ("builtins:OSError",),
        "key": "path",
    }
    assert make_options(**wire) == options
    assert make_options(**msgspec.json.decode(msgspec.json.encode(options))) == options
