"""The arguments that a task takes, and those that a fan-out gives it: compared before anything is sent or run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from asyncworker.errors import ArgumentError
from asyncworker.iterate import IterateOptions, Source, TaskSource, check_key
from asyncworker.resources import resources_of
from asyncworker.worker.tracing import is_bridged, pydantic_arguments

__all__ = ["check_fan_out", "check_fixed", "check_source_call", "check_sources", "check_twice", "row_checker"]

#: Sets of names that are remembered as right, so that a row is looked at once for each set and not once for each row.
KNOWN_SETS = 1000


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of a task, without those that are filled in by others: ``self`` and resources.

    Attributes:
        task: The task's name.
        names: Those that can be given by keyword, in their order.
        needed: Those of them that have no default.
        positional: Those that cannot be given by keyword, in their order.
        positional_needed: Those of them that have no default.
        resources: Those that the worker fills in.
        takes_any: It has ``**kwargs``.
        signature: All of it, without resources and ``self``.
    """

    task: str
    names: tuple[str, ...]
    needed: tuple[str, ...]
    positional: tuple[str, ...]
    positional_needed: tuple[str, ...]
    resources: frozenset[str]
    takes_any: bool
    signature: inspect.Signature

    def check_names(self, given: Iterable[str]) -> None:
        """Refuse keywords that the task does not take.

        Raises:
            ArgumentError: Names them, and those that it takes.
        """
        unknown = [] if self.takes_any else [name for name in given if name not in self.names]
        if unknown:
            plural = "s" if len(unknown) > 1 else ""
            raise self._error(
                f"has no parameter{plural} {_quoted(unknown)}; it has {', '.join(self.names) or 'none'}"
                f"{self._hint(unknown)}",
                unknown=unknown,
            )

    def check_needed(self, given: Iterable[str]) -> None:
        """Refuse keywords without which the task cannot be called.

        Raises:
            ArgumentError: Names what is missing, or can be given by position only.
        """
        if self.positional_needed:
            raise self._error(
                f"takes {_quoted(self.positional_needed)} by position only, and an item is called with keywords: "
                "take the '/' out of its signature",
                missing=self.positional_needed,
            )
        known = set(given)
        if missing := [name for name in self.needed if name not in known]:
            raise self._error(f"needs {_quoted(missing)}; given: {', '.join(given) or 'nothing'}", missing=missing)

    def check_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call that Python would refuse.

        Raises:
            ArgumentError: Names what is wrong.
        """
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as exc:
            self.check_names(kwargs)
            by_position = [
                each.name for each in self.signature.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD
            ][: max(0, len(args) - len(self.positional))]
            if not self.positional_needed:
                self.check_needed([*by_position, *kwargs])
            raise self._error(f"cannot be called so: {exc}") from None

    def _hint(self, unknown: list[str]) -> str:
        options = [name for name in unknown if name in IterateOptions.__struct_fields__]
        if options:
            return f". Options of the fan-out are given with .options({', '.join(f'{name}=...' for name in options)})"
        if filled := [name for name in unknown if name in self.resources]:
            return f". {_quoted(filled)}: filled in by the worker, a resource"
        if positional := [name for name in unknown if name in self.positional]:
            return f". {_quoted(positional)}: by position only, and an item is called with keywords"
        return ""

    def _error(self, text: str, *, unknown: Iterable[str] = (), missing: Iterable[str] = ()) -> ArgumentError:
        return ArgumentError(f"{self.task} {text}", self.task, self.names, tuple(unknown), tuple(missing))


def check_fixed(task: Any, fixed: Iterable[str]) -> None:
    """Refuse fixed arguments that the task does not take.

    Raises:
        ArgumentError: Names them.
    """
    if (parameters := _parameters_of(task)) is not None:
        parameters.check_names(fixed)


def check_twice(task: Any, fixed: Iterable[str], iterated: Iterable[str], where: str = "iterated") -> None:
    """Refuse arguments that are given twice.

    Raises:
        ArgumentError: Names them.
    """
    known = set(fixed)
    if twice := sorted(known.intersection(iterated)):
        parameters = _parameters_of(task)
        raise ArgumentError(
            f"{task.name}: {', '.join(twice)} is both fixed and {where}",
            task.name,
            () if parameters is None else parameters.names,
        )


def check_fan_out(task: Any, fixed: Mapping[str, Any], iterated: list[str] | None, options: IterateOptions) -> None:
    """Refuse a fan-out none of whose items could be called.

    Args:
        task: The task of the items. One with ``typing=False`` takes what it is given, as in Celery.
        fixed: The arguments that are the same for all items.
        iterated: The names that each item has from the source; ``None``: its row says so, and is looked at then.
        options: Of which ``key`` and ``limits`` name arguments.

    Raises:
        ArgumentError: Arguments that it does not take, that are missing or given twice; a key that no item has.
        SettingsError: A limit by an argument that no item has.
    """
    parameters = _parameters_of(task)
    given = [*fixed, *(iterated or ())]
    check_twice(task, fixed, iterated or ())
    if parameters is not None:
        parameters.check_names(given)
        if iterated is not None:
            parameters.check_needed(given)
    _check_key(task, parameters, options.key, fixed, iterated)
    known = given if iterated is not None else None
    if known is None and parameters is not None and not parameters.takes_any:
        known = [*given, *parameters.names]
    if known is not None:
        for use in dict.fromkeys([*getattr(task, "limits", ()), *options.limits]):
            use.key_for(dict.fromkeys(known, ""))


def _check_key(
    task: Any, parameters: Parameters | None, key: str | None, fixed: Iterable[str], iterated: list[str] | None
) -> None:
    if key is None:
        return
    if iterated is not None:
        check_key(key, iterated)
        return
    check_twice(task, fixed, [key], "the key of the items")
    if parameters is not None:
        try:
            parameters.check_names([key])
        except ArgumentError as exc:
            raise ArgumentError(f"key is {key!r}: {exc}", *exc.args[1:]) from None


def check_source_call(task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a task as a source that cannot be called with the arguments of its signature.

    Raises:
        ArgumentError: Names what is wrong.
    """
    if (parameters := _parameters_of(task)) is not None:
        parameters.check_call(tuple(args), kwargs)


def check_sources(app: Any, source: Source) -> None:
    """Refuse tasks as sources that cannot be called so; one that is not known here is refused when it is read."""
    for values in (column.values for column in source.columns):
        if isinstance(values, TaskSource) and (task := app.tasks.get(values.task)) is not None:
            check_source_call(task, values.args, values.kwargs)


def row_checker(task: Any, fixed: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """Return what refuses a row with which an item cannot be called."""
    right: set[tuple[str, ...]] = set()
    parameters = _parameters_of(task)

    def check(row: Mapping[str, Any]) -> None:
        names = tuple(row)
        if names in right:
            return
        check_twice(task, fixed, names, "in the row")
        if parameters is not None:
            given = [*fixed, *names]
            parameters.check_names(given)
            parameters.check_needed(given)
        if len(right) < KNOWN_SETS:
            right.add(names)

    return check


#: Of each task; a function's signature is looked at once.
_known: WeakKeyDictionary[Any, Parameters | None] = WeakKeyDictionary()


def _parameters_of(task: Any) -> Parameters | None:
    """Return a task's parameters; ``None`` where they cannot be known, or are not to be checked."""
    if not getattr(task, "typing", True):
        return None
    if task not in _known:
        _known[task] = _read(task)
    return _known[task]


def _read(task: Any) -> Parameters | None:
    # Below `autoretry_for`, which takes anything.
    function, bound, whole = _innermost(getattr(task, "_orig_run", task.run))
    try:
        # A decorator that takes anything may give other things on: only Celery's for pydantic looks through it itself.
        signature = inspect.signature(function, follow_wrapped=whole)
        # In what fills resources in, they are not to be seen.
        resources = frozenset(resources_of(getattr(function, "__wrapped__", function)))
    except (TypeError, ValueError):  # written in C
        return None
    parameters = list(signature.parameters.values())
    if bound and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        del parameters[0]
    parameters = [each for each in parameters if each.name not in resources]
    by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    positional = [each for each in parameters if each.kind is each.POSITIONAL_ONLY]
    return Parameters(
        task=task.name,
        names=tuple(each.name for each in by_name),
        needed=tuple(each.name for each in by_name if each.default is each.empty),
        positional=tuple(each.name for each in positional),
        positional_needed=tuple(each.name for each in positional if each.default is each.empty),
        resources=resources,
        takes_any=any(each.kind is each.VAR_KEYWORD for each in parameters),
        signature=signature.replace(parameters=parameters),
    )


def _innermost(run: Callable[..., Any]) -> tuple[Any, bool, bool]:
    """Return a task's function below what Celery and this package have put around it.

    Returns:
        The function; whether its first parameter is the task; whether pydantic's wrapper calls it.
    """
    function: Any = run
    bound = whole = False
    while True:
        if inspect.ismethod(function):
            function, bound = function.__func__, True
        elif (pydantic := pydantic_arguments(function)) is not None:
            function, whole = pydantic["task_fun"], True
        elif is_bridged(function) and hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function, bound, whole


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
