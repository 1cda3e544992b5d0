"""The differences from prefork that are meant, each with its reason. The README's section is made of them."""

from __future__ import annotations

import dataclasses

__all__ = ["MEANT", "Meant"]


@dataclasses.dataclass(frozen=True)
class Meant:
    """A difference: lines of these scenarios that match may differ.

    Attributes:
        what: In one line, for the README.
        prefork: What prefork does.
        ours: What we do.
        scenario: A pattern for the scenario's name.
        lines: A pattern for the lines, searched for.
        sides: Ours on which it shows.
    """

    what: str
    prefork: str
    ours: str
    scenario: str
    lines: str
    sides: tuple[str, ...] = ("async", "threads")


MEANT: list[Meant] = []
