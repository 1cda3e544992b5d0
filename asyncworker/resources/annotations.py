"""Annotations of a function's parameters, even if some names in them cannot be resolved."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_origin

__all__ = ["annotated"]


def annotated(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """Return the metadata of each parameter that is ``Annotated[type, *metadata]``.

    Annotations that are text are resolved where the function was written. A type that is imported for the type checker
    only does not matter: it is the metadata that is wanted.
    """
    innermost = inspect.unwrap(function)
    names = _Names(getattr(innermost, "__func__", innermost))
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = names.evaluate(annotation)
        if get_origin(annotation) is Annotated:
            found[name] = annotation.__metadata__
    return found


class _Names(Mapping[str, Any]):
    """The names that a function sees; any other one is something without properties."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._known = dict(getattr(function, "__builtins__", {}))
        self._known.update(getattr(function, "__globals__", {}))
        for name, cell in zip(
            getattr(getattr(function, "__code__", None), "co_freevars", ()),
            getattr(function, "__closure__", None) or (),
            strict=False,
        ):
            try:
                self._known[name] = cell.cell_contents
            except ValueError:
                continue  # not assigned yet

    def evaluate(self, text: str) -> Any:
        try:
            return eval(text, {}, self)
        except Exception:
            return None

    def __getitem__(self, name: str) -> Any:
        return self._known.get(name, _Unknown)

    def __iter__(self) -> Any:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class _UnknownType(type):
    """Lets a name that is not known be written like any other: with attributes, parameters, alternatives."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, key: Any) -> Any:
        return cls


class _Unknown(metaclass=_UnknownType):
    """Placeholder for a name that cannot be resolved."""
