"""Every module says what it is for, and every public name has a docstring."""

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import asyncworker

MODULES = sorted(found.name for found in pkgutil.walk_packages(asyncworker.__path__, "asyncworker."))


def public(module: ModuleType) -> list[str]:
    # A package whose files are imported one by one exports nothing itself.
    return list(module.__all__) if not hasattr(module, "__path__") else list(getattr(module, "__all__", []))


def documented(value: object) -> bool:
    # A class must have its own: it would inherit its base's.
    own = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return bool(own and own.strip())


def without_docstring(module: ModuleType) -> list[str]:
    missing = []
    for name in public(module):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if not documented(value):
            missing.append(name)
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            # Its own or, where it overrides one, its base's.
            called = inspect.isroutine(member) or isinstance(member, property)
            if called and not attribute.startswith("_") and not inspect.getdoc(getattr(value, attribute)):
                missing.append(f"{name}.{attribute}")
    return missing


@pytest.mark.parametrize("name", ["asyncworker", *MODULES])
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert documented(module), f"{name} does not say what it is for"
    assert without_docstring(module) == []


@pytest.mark.parametrize("name", ["asyncworker", *MODULES])
def test_all_names_nothing_twice(name: str) -> None:
    names = public(importlib.import_module(name))
    assert len(set(names)) == len(names)
