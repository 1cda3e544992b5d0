"""A task as what a fan-out calls: for each of its items, and as its source."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery.app.base import pydantic_wrapper  # type: ignore[attr-defined]
from celery.canvas import Signature
from celery.exceptions import Retry

from asyncworker.errors import ItemError, SettingsError, SourceError
from asyncworker.iterate import IterateOptions, RetryItem, Source, TaskSource, call_source, current_item, run_on_thread
from asyncworker.iterate.item import item_here
from asyncworker.resources import in_item_scope, items_are_scopes
from asyncworker.tasks.arguments import check_source_call, row_checker
from asyncworker.tasks.item_states import item_states, leave_item_state
from asyncworker.tasks.json_values import is_storable
from asyncworker.tasks.names import OUR_TASKS
from asyncworker.worker.django_connections import closing_old_connections
from asyncworker.worker.tracing import collected, is_async, pydantic_arguments

__all__ = [
    "caller",
    "check_result",
    "check_source",
    "check_target",
    "in_item",
    "opener",
    "refuse_in_item",
    "retry_item",
    "source_of_signature",
]


def caller(task: Any, fixed: dict[str, Any], source: Source) -> Callable[[dict[str, Any]], Awaitable[Any]]:
    """Return what runs one item: the task's body, without a message and without a request of its own.

    Args:
        task: The task.
        fixed: The arguments that are the same for all items.
        source: Where the others come from. `check_fan_out` has compared its names; a row's are when it is run.
    """
    # Below `autoretry_for`, which is no item's: see `check_target`.
    run = getattr(task, "_orig_run", task.run)
    own = _argument_maker(fixed, row_checker(task, fixed) if source.names is None else None)
    if is_async(task):
        dumped = _dumper(run)
        generates = inspect.isasyncgenfunction(inspect.unwrap(run))

        async def call(row: dict[str, Any]) -> Any:
            body = run(**own(row))
            if generates:
                body = collected(body)
            try:
                value = await (in_item_scope(body) if items_are_scopes() else body)
            except Retry as exc:
                raise _from_celery(exc) from exc
            finally:
                if item_states:
                    leave_item_state()
            return value if dumped is None else dumped(value)

        return closing_old_connections(call)

    def on_thread(**arguments: Any) -> Any:
        try:
            return run(**arguments)
        except Retry as exc:
            raise _from_celery(exc) from exc
        except (StopIteration, GeneratorExit) as exc:
            # A future does not take the one: whoever waits for it would wait for ever. The other closes who waits.
            raise RuntimeError(f"{task.name} raised {type(exc).__name__}") from exc

    async def call_on_thread(row: dict[str, Any]) -> Any:
        try:
            return await run_on_thread(partial(on_thread, **own(row)))
        finally:
            if item_states:
                leave_item_state()

    return call_on_thread


#: What an item may change and would change for others. Objects of other classes, and what is in a tuple, are shared.
_CONTAINERS = frozenset({list, dict, set, bytearray})


def _argument_maker(
    fixed: dict[str, Any], check_row: Callable[[Mapping[str, Any]], None] | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes an item's own arguments: containers are copied for each attempt, which costs by their size."""
    copiers = {each: _copier(value) for each, value in fixed.items() if type(value) in _CONTAINERS}

    def own(row: dict[str, Any]) -> dict[str, Any]:
        if check_row is not None:
            check_row(row)
        arguments = {**fixed, **row}
        for each, value in row.items():
            if type(value) in _CONTAINERS:
                arguments[each] = _copied(value)
        for each, copier in copiers.items():
            arguments[each] = copier(arguments[each])
        return arguments

    return own


def _copier(value: Any) -> Callable[[Any], Any]:
    """Return what copies a value: the class's own way, a tenth of the cost, where no container is in it."""
    members = value.values() if type(value) is dict else value
    nested = any(type(each) in _CONTAINERS for each in members)
    return _copied if nested else type(value).copy


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copied(each) if type(each) in _CONTAINERS else each for key, each in value.items()}
    if kind is list:
        return [_copied(each) if type(each) in _CONTAINERS else each for each in value]
    return kind(value)


def _dumper(run: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what Celery's pydantic wrapper does with a value; in an item it has seen the coroutine only."""
    wrapper, given = run, pydantic_arguments(run)
    while given is None:
        wrapper = getattr(wrapper, "__wrapped__", None)  # type: ignore[assignment]
        if wrapper is None:
            return None
        given = pydantic_arguments(wrapper)
    function = given["task_fun"]
    try:
        annotation = typing.get_type_hints(function).get("return", inspect.Signature.empty)
    except (NameError, AttributeError, TypeError):
        annotation = inspect.signature(function).return_annotation

    def returned(value):  # type: ignore[no-untyped-def]
        return value

    returned.__annotations__ = {} if annotation is inspect.Signature.empty else {"return": annotation}
    names = ("task_name", "strict", "context", "dump_kwargs")
    return pydantic_wrapper(given["app"], returned, *(given[name] for name in names))  # type: ignore[no-any-return]


def check_result(task: Any, options: IterateOptions) -> None:
    """Refuse a task whose results are known to be none that can be stored.

    Raises:
        SettingsError: Names the type, and what to do.
    """
    if options.results == "none":
        return
    try:
        function = inspect.unwrap(getattr(task, "_orig_run", task.run))
        annotation = typing.get_type_hints(function).get("return")
    except Exception:  # names that exist for type checkers only
        return
    if inspect.isasyncgenfunction(function):
        return  # its value is the list of what it yields
    if not is_storable(annotation):
        raise SettingsError(
            f"{task.name} returns {annotation}, which cannot be stored: return what JSON can hold, a dataclass or a "
            "pydantic model, or say .options(results='none')"
        )


def check_target(task: Any, options: IterateOptions) -> None:
    """Refuse what a task says of itself and its items would not do.

    Raises:
        SettingsError: Names it, and the option that does it.
    """
    ignored = []
    if getattr(task, "autoretry_for", ()) and not options.retries:
        ignored.append(("autoretry_for", "retries=..., retry_on=..."))
    if options.item_timeout_s is None:
        ignored += [(name, "item_timeout_s=...") for name in ("time_limit", "soft_time_limit") if getattr(task, name)]
    # That of the configuration is for tasks, and says nothing of this one.
    if task.rate_limit and task.rate_limit != task.app.conf.task_default_rate_limit and not options.limits:
        ignored.append(("rate_limit", "limits=[...]"))
    for name, option in ignored:
        raise SettingsError(
            f"{task.name} has {name}={getattr(task, name)!r}, which applies to messages, and an item is not one; "
            f"set .options({option}) instead"
        )


def opener(app: Any) -> Callable[[str, list[Any], dict[str, Any]], Any]:
    """Return what runs the task that is a source."""

    def open_task(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        check_source(name)
        task = app.tasks.get(name)
        if task is None:
            raise SourceError(f"source task {name!r} is not registered with this worker; is its module imported?")
        check_source_call(task, args, kwargs)
        run = getattr(task, "_orig_run", task.run)
        if is_async(task):
            return run(*args, **kwargs)
        return call_source(lambda: run(*args, **kwargs))

    return open_task


def check_source(name: str) -> None:
    """Refuse what is no task that yields or returns values.

    Raises:
        SourceError: A chain, group or chord, or a fan-out.
    """
    if name in OUR_TASKS:
        raise SourceError(
            "a fan-out cannot be the source of another: chain them, the first with options(results='inline'), the next "
            "over asyncworker.previous_result"
        )
    if name.startswith("celery."):
        raise SourceError(
            f"{name} cannot be a source, which is one task: put it before the fan-out, in a chain, and iterate over "
            "asyncworker.previous_result"
        )


def source_of_signature(signature: Signature[Any]) -> TaskSource:
    """Make a source of a task's signature.

    Raises:
        SourceError: It is not of one task, or says how that is sent, which it is not.
    """
    name = str(signature.task)
    check_source(name)
    if signature.options:
        raise SourceError(
            f"source task {name} has options ({', '.join(sorted(signature.options))}): it is run where the items are, "
            "and not sent"
        )
    return TaskSource(name, tuple(signature.args or ()), dict(signature.kwargs or {}))


# -- what a task may call on itself in an item -------------------------------------------------------------------------


def in_item(task: Any) -> bool:
    """Tell whether the task runs as an item here, and not by a message or eagerly."""
    return item_here() is not None and not task.request.is_eager


def retry_item(exc: Any, eta: datetime | None, countdown: Any) -> RetryItem:
    """Make of a task's ``retry`` that of an item."""
    if eta is not None:
        aware = eta if eta.tzinfo is not None else eta.replace(tzinfo=UTC)
        countdown = (aware - datetime.now(UTC)).total_seconds()
    delay_s = None if countdown is None else max(0.0, float(countdown))
    return RetryItem(exc if isinstance(exc, BaseException) else None, delay_s)


def refuse_in_item(task: Any, method: str, instead: str) -> None:
    """Refuse what needs a message.

    Raises:
        ItemError: The task runs as an item.
    """
    if in_item(task):
        raise ItemError(f"{task.name}.{method}() in item {current_item().index}: an item has no message; {instead}")


def _from_celery(exc: Retry) -> RetryItem:
    eta, countdown = (exc.when, None) if isinstance(exc.when, datetime) else (None, exc.when)
    return retry_item(exc.exc or exc, eta, countdown)
