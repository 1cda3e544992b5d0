"""The README's table of settings, made from settings.py; ``python -m tests.settings_table`` writes it there."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path

from asyncworker.settings import ENV_PREFIX, Settings

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- settings: python -m tests.settings_table -->\n"
END = "<!-- end of settings -->\n"

#: Made on each machine; what it comes to is told instead.
COMPUTED = {"state_dir": "`~/.local/state/asyncworker`"}


def descriptions() -> dict[str, str]:
    """Return the text that stands below each field in the source."""
    tree = ast.parse(inspect.getsource(Settings))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "`").split())
    return found


def shown(name: str) -> str:
    value = getattr(Settings(), name)
    if name in COMPUTED:
        return COMPUTED[name]
    if isinstance(value, bool | float):
        return f"`{value:.10g}`"
    return f"`{value}`" if value or value == 0 else "empty"


def table() -> str:
    told = descriptions()
    rows = [f"| `{ENV_PREFIX}{name.upper()}` | {shown(name)} | {told[name]} |" for name in Settings.__struct_fields__]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def written() -> str:
    """Return the table that the README holds."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, begin, rest = README.read_text().partition(BEGIN)
    README.write_text(before + begin + table() + END + rest.partition(END)[2])
