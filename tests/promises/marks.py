"""The tests that are marked with a promise, read from their source: no test is imported."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

MARK = "pytest.mark.promise"


@dataclasses.dataclass(frozen=True)
class Mark:
    """A marker in a test file: the promise it names, and the test it marks (its node id without parameters)."""

    promise: str
    test: str


class StrayMark(ValueError):
    """A marker that is not a literal name on a test that pytest collects, and its place."""


def marks_below(folder: Path, root: Path) -> list[Mark]:
    """Return every marker in the test files below a folder, in order; node ids are relative to ``root``."""
    found: list[Mark] = []
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text()
        if MARK in text:
            found += marks_of(text, path.relative_to(root).as_posix())
    return found


def marks_of(text: str, path: str) -> list[Mark]:
    """Return the markers of one test file.

    Raises:
        StrayMark: A marker whose argument is no literal, or that stands on what pytest does not collect.
    """
    tree = ast.parse(text)
    found = list(_marks_in(tree.body, path))
    seen = {id(call) for call, _ in found}
    for call in _calls(tree):
        if id(call) not in seen:
            raise StrayMark(f"{path}:{call.lineno}: {MARK} marks no test")
    return [Mark(_name(call, path), test) for call, test in found]


def _marks_in(body: list[ast.stmt], prefix: str) -> Iterator[tuple[ast.Call, str]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            for decorator in node.decorator_list:
                for call in _calls(decorator):
                    yield call, f"{prefix}::{node.name}"
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _marks_in(node.body, f"{prefix}::{node.name}")


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="promise")) if ast.unparse(node.func) == MARK:
                yield node


def _name(call: ast.Call, path: str) -> str:
    match call.args:
        case [ast.Constant(value=str(name))] if not call.keywords:
            return name
    raise StrayMark(f"{path}:{call.lineno}: {MARK} takes one literal name")
