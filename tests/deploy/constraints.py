"""Writes deploy/constraints.txt, the versions in this environment of all that the image installs.

``python -m tests.deploy.constraints``
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import DEPLOY, ROOT

__all__ = ["CONSTRAINTS", "constraints", "requirements"]

CONSTRAINTS = DEPLOY / "constraints.txt"
_HEAD = "# What the image installs. Made by python -m tests.deploy.constraints.\n"


def requirements() -> list[Requirement]:
    """Return what the image asks pip for: the project's own requirements and those of the extras in the Dockerfile."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[(.*)\]'", (DEPLOY / "Dockerfile").read_text())
    asked = list(project["dependencies"])
    for extra in extras.split(","):
        asked += project["optional-dependencies"][extra]
    return [Requirement(each) for each in asked]


def constraints() -> str:
    """Return the file's text."""
    found: dict[str, str] = {}
    left = requirements()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}
        )
        if not wanted:
            continue
        found[name] = importlib.metadata.version(name)
        left += _requirements_of(requirement, found)
    return _HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _requirements_of(requirement: Requirement, found: dict[str, str]) -> list[Requirement]:
    below = []
    for text in importlib.metadata.requires(requirement.name) or []:
        each = Requirement(text)
        extras = requirement.extras or {""}
        if each.marker is not None and not any(each.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        each.marker = None
        if canonicalize_name(each.name) not in found:
            below.append(each)
    return below


if __name__ == "__main__":
    CONSTRAINTS.write_text(constraints())
