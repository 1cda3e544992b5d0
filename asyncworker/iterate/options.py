"""Options of a run, checked where the caller gives them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from asyncworker.errors import SettingsError
from asyncworker.iterate.exception_names import exception_names
from asyncworker.limits import LimitUse, uses_of
from asyncworker.settings import LONGEST_S

__all__ = ["IterateOptions", "make_options"]

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_S)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=LONGEST_S)]


class IterateOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a run treats its items. `make_options` checks what is given."""

    concurrency: Positive = 100
    """Items that run at once."""
    retries: NotNegative = 0
    """How many times an item that failed is tried again."""
    backoff_s: Seconds = 1.0
    """An item's n-th retry waits between ``backoff_s`` and ``backoff_s * 2 ** n``, at random."""
    backoff_max_s: Seconds = 60.0
    """No retry waits for longer."""
    retry_on: tuple[str, ...] = ()
    """Exception classes, as ``module:QualName``, that are tried again; empty: every ``Exception``."""
    fail_on: tuple[str, ...] = ()
    """Exception classes that are not tried again, whatever ``retry_on`` says."""
    on_error: Literal["collect", "fail_fast"] = "collect"
    """Go on past failed items, or stop at the first."""
    max_failures: NotNegative | None = None
    """Stop once more items than this have failed."""
    item_timeout_s: PositiveSeconds | None = None
    """Limit for one attempt at an item."""
    total_timeout_s: PositiveSeconds | None = None
    """Limit for the run, counted from where this attempt of it began."""
    key: str | None = None
    """Keyword whose value identifies an item; without one its index does, which a changed source spoils."""
    on_change: Literal["error", "restart", "resume"] = "error"
    """Where a run is sent again under its id before it was complete, and the fixed arguments or the source are others:
    refuse, run all afresh, or run what is not done, known by index or key. With a ``key`` the source may change."""
    limits: tuple[LimitUse, ...] = ()
    """Limits of which each item needs a permit while it runs; items that wait for one hold no place of others."""
    results: Literal["stored", "inline", "none"] = "stored"
    """Keep results in the store, return them, or drop them."""
    checkpoint_every_s: PositiveSeconds = 0.25
    """What a crash may cost: items that finished within the last so many seconds are run again."""
    partitions: Positive = 1
    """Contiguous ranges of a source of known length, each run by any worker, ``concurrency`` items at once in each."""
    name: str | None = None
    """Label of the run in logs and errors."""


def make_options(**given: Any) -> IterateOptions:
    """Check options. ``retry_on`` and ``fail_on`` take exception classes or their names; ``limits`` takes names too.

    Raises:
        SettingsError: An option that is none, or a value that is not allowed: names it, its value, what is.
    """
    known = {field.name: field for field in msgspec.structs.fields(IterateOptions)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise SettingsError(f"{name}: no such option of iterate; known: {', '.join(sorted(known))}")
        if name in ("retry_on", "fail_on"):
            value = exception_names(value)
        elif name == "limits":
            # Of a message they are mappings.
            value = value if _came_in_a_message(value) else uses_of(value)
        try:
            checked[name] = msgspec.convert(value, known[name].type)
        except msgspec.ValidationError as exc:
            choices = get_args(known[name].type) if get_origin(known[name].type) is Literal else ()
            reason = (
                f"expected one of {', '.join(map(repr, choices))}"
                if choices
                else f"{str(exc)[:1].lower()}{str(exc)[1:]}"
            )
            raise SettingsError(f"{name} is {value!r}: {reason}") from None
    options = IterateOptions(**checked)
    if options.on_change == "resume" and options.partitions > 1:
        raise SettingsError(
            "on_change is 'resume' and partitions more than one: another source has other partitions; "
            "expected on_change 'error' or 'restart'"
        )
    return options


def _came_in_a_message(limits: Any) -> bool:
    return isinstance(limits, list | tuple) and all(isinstance(each, dict) for each in limits)
