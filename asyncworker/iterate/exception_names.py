"""Exception classes as names that travel in a message, and whether an exception is one of them.

A name never makes anything be imported: a message would run whatever module it names. An exception can only have been
raised by a module that is loaded, so its own classes tell whether it is meant.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from asyncworker.errors import SettingsError

__all__ = ["ExceptionNames", "exception_names"]


def exception_names(classes: Any) -> tuple[str, ...]:
    """Names, as ``module:QualName``, of exception classes; a single one and names are taken as well.

    Raises:
        SettingsError: Something that is neither an exception class nor such a name.
    """
    several: Iterable[Any] = classes if isinstance(classes, list | tuple | set | frozenset) else (classes,)
    names = []
    for each in several:
        if isinstance(each, type) and issubclass(each, BaseException):
            names.append(f"{each.__module__}:{each.__qualname__}")
        elif isinstance(each, str) and ":" in each:
            names.append(each)
        else:
            raise SettingsError(f"{each!r} is not an exception class; give the class, or 'module:QualName'")
    return tuple(names)


class ExceptionNames:
    """The exceptions that are meant by names: ``exception in names``.

    Args:
        names: Each ``module:QualName``.

    Raises:
        SettingsError: No module of that name is here, or what it names is no exception class.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._classes: tuple[type[BaseException], ...] = ()
        #: Of modules that are not loaded yet, as a task may import one when it needs it.
        self._pending = set(self._names)
        if wrong := self._resolve():
            raise SettingsError(f"retry_on or fail_on names {wrong!r}, which is not an exception class")
        for name in self._pending:
            package = name.partition(":")[0].partition(".")[0]
            # Of the package alone: that runs nothing.
            if not package or (package not in sys.modules and find_spec(package) is None):
                raise SettingsError(f"retry_on or fail_on names {name!r}: there is no module {package!r} here")

    def __contains__(self, exc: BaseException) -> bool:
        if self._pending:
            self._resolve()
        if isinstance(exc, self._classes):
            return True
        # A class that its module does not hold under that name, such as one of a function.
        return any(f"{cls.__module__}:{cls.__qualname__}" in self._names for cls in type(exc).__mro__)

    def _resolve(self) -> str:
        """Look up what is loaded by now; return a name that is none of an exception class."""
        wrong = ""
        for name in list(self._pending):
            module_name, _, qualname = name.partition(":")
            if module_name not in sys.modules:
                continue
            self._pending.discard(name)
            found: Any = sys.modules[module_name]
            for part in qualname.split("."):
                # Not getattr: a module's __getattr__ is code, and often imports.
                found = getattr(found, "__dict__", {}).get(part)
            if isinstance(found, type) and issubclass(found, BaseException):
                self._classes += (found,)
            elif "<locals>" not in qualname:
                wrong = name
        return wrong
