"""Fill the parameters of an async function that are annotated with resources."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from asyncworker.errors import SettingsError
from asyncworker.resources.resource import Resource, resources_of, use
from asyncworker.resources.scopes import in_item_scope, in_task_scope, scope_is_open

__all__ = ["inject", "refuse_resources"]


def inject(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its resource parameters filled where the caller does not give them by name.

    To whoever looks at its signature, these parameters do not exist: positional arguments go to the others. A function
    that asks for no resource is returned as it is.

    Raises:
        SettingsError: A resource parameter stands where it cannot be given by name.
    """
    wanted = resources_of(function)
    if not wanted:
        return function
    signature = inspect.signature(function)
    order = _positional_order(signature, wanted, function)

    def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if order is None or not args:
            return args, kwargs
        named = dict(zip(order, args, strict=False))
        if len(named) < len(args) or named.keys() & kwargs.keys():
            return args, kwargs  # which is an error, and Python's own words for it are the best
        return (), {**named, **kwargs}

    if inspect.isasyncgenfunction(inspect.unwrap(function)):

        async def injected_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            args, kwargs = split(args, kwargs)
            filled = {name: await use(each) for name, each in wanted.items() if name not in kwargs}
            async with contextlib.aclosing(function(*args, **kwargs, **filled)) as values:
                async for value in values:
                    yield value

        return _dressed(injected_generator, function, signature, wanted)

    scopes = {scope for each in wanted.values() for scope in _scopes_of(each)}

    async def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = split(args, kwargs)
        filled = {name: await use(each) for name, each in wanted.items() if name not in kwargs}
        return await function(*args, **kwargs, **filled)

    async def injected(*args: Any, **kwargs: Any) -> Any:
        called: Awaitable[Any] = call(args, kwargs)
        # A call outside of any task, or of any item, is one.
        if "item" in scopes and not scope_is_open("item"):
            called = in_item_scope(called)
        if "task" in scopes and not scope_is_open("task"):
            called = in_task_scope(called)
        return await called

    return _dressed(injected, function, signature, wanted)


def refuse_resources(function: Callable[..., Any], task: str) -> None:
    """Refuse a function that is not async and asks for a resource.

    Raises:
        SettingsError: It does; names the task, the parameter and the resource.
    """
    for name, wanted in resources_of(function).items():
        raise SettingsError(
            f"task {task} is not async: its parameter {name!r} cannot be filled with the {wanted!r}, which lives on "
            f"the event loop; make it `async def`"
        )


def _positional_order(
    signature: inspect.Signature, wanted: dict[str, Resource[Any]], function: Callable[..., Any]
) -> list[str] | None:
    """Return the names that positional arguments go to; ``None`` where they need not be renamed."""
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    before_resources = [p.name in wanted for p in positional]
    if before_resources == sorted(before_resources):
        starred = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
        if not (starred and any(before_resources)) and not any(
            p.kind is p.POSITIONAL_ONLY and p.name in wanted for p in positional
        ):
            return None
    elif all(p.kind is p.POSITIONAL_OR_KEYWORD for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY):
        return [p.name for p in positional if p.name not in wanted]
    raise SettingsError(
        f"{function.__qualname__}: {', '.join(wanted)} cannot be filled where it stands; put resource parameters last, "
        f"after a `*`"
    )


def _scopes_of(wanted: Resource[Any]) -> set[str]:
    # What it needs lives at least as long as it does.
    return {"item", "task"} if wanted.scope == "item" else {wanted.scope}


def _dressed(
    injected: Callable[..., Any],
    function: Callable[..., Any],
    signature: inspect.Signature,
    wanted: dict[str, Resource[Any]],
) -> Callable[..., Any]:
    functools.update_wrapper(injected, function)
    shown = [parameter for name, parameter in signature.parameters.items() if name not in wanted]
    injected.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return injected
