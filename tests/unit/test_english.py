"""Docstrings begin as those of other libraries do: with a verb, or with the name of what is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import asyncworker

PACKAGE = Path(asyncworker.__file__).parent
#: A clause is no title. "Whether" begins the description of an attribute only.
CLAUSES = ("What ", "Who ", "Whose ", "Of ")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_attribute(node: DOCUMENTED) -> bool:
    """Whether a node is a property."""
    return any("property" in ast.unparse(each) for each in getattr(node, "decorator_list", []))


def docstrings() -> Iterator[tuple[str, str, bool]]:
    """Yield the place of each docstring, its first line, and whether it is a property's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                place = f"{path.relative_to(PACKAGE)}:{node.body[0].lineno}"
                yield place, text.partition("\n")[0], is_attribute(node)


def test_no_docstring_begins_with_a_clause() -> None:
    found = list(docstrings())
    assert len(found) > 1000
    assert [line for line in found if line[1].startswith(CLAUSES)] == []
    assert [line for line in found if line[1].startswith("Whether ") and not line[2]] == []
