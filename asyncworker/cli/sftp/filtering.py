"""Filters of the command line: rules in the order in which the options stand, as rsync has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from asyncworker.errors import SettingsError
from asyncworker.sftp.filters import Filters, Rule, read_rules, rule

__all__ = ["FilterCommand", "filter_options", "read_text"]

C = TypeVar("C", bound=Callable[..., Any])

_FILE = click.File("rb")
_FROM = "of FILE, one a line; - is standard input"
#: Options that make rules, and what they make of a value.
_MAKERS: dict[str, Callable[[Any], Iterable[Rule]]] = {
    "include": lambda pattern: [Rule(True, pattern, only=True)],
    "exclude": lambda pattern: [Rule(False, pattern)],
    "filter": lambda line: [rule(line)],
    "include_from": lambda file: read_rules(read_text(file), include=True),
    "exclude_from": lambda file: read_rules(read_text(file), include=False),
    "filter_from": lambda file: read_rules(read_text(file), include=None),
}


def filter_options(command: C) -> C:
    """Options that say which paths are wanted; their order counts, so the command is a :class:`FilterCommand`."""
    options = (
        click.option("--include", multiple=True, metavar="PATTERN", help="Only files that meet it (repeatable)."),
        click.option("--exclude", multiple=True, metavar="PATTERN", help="No file or folder that meets it."),
        click.option("--filter", multiple=True, metavar="RULE", help="'+ PATTERN' or '- PATTERN', as rsync has them."),
        click.option("--include-from", multiple=True, type=_FILE, metavar="FILE", help=f"Patterns to include {_FROM}."),
        click.option("--exclude-from", multiple=True, type=_FILE, metavar="FILE", help=f"Patterns to exclude {_FROM}."),
        click.option("--filter-from", multiple=True, type=_FILE, metavar="FILE", help=f"Rules {_FROM}."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class FilterCommand(click.Command):
    """Replaces the values of filter options by one parameter, ``filters``: their rules, in the order of the options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        # click keeps the order of all options, but the order of its values for each option alone.
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        rest = super().parse_args(ctx, args)
        values = {name: iter(ctx.params.pop(name) or ()) for name in _MAKERS}
        rules: list[Rule] = []
        try:
            for parameter in order:
                if parameter.name in _MAKERS:
                    rules.extend(_MAKERS[parameter.name](next(values[parameter.name])))
            Filters(rules)
        except SettingsError as error:
            raise click.UsageError(str(error), ctx) from None
        ctx.params["filters"] = rules
        return rest


def read_text(file: Any) -> str:
    """Read a file of names or patterns; bytes that are not UTF-8 become surrogate escapes."""
    data: bytes = file.read()
    return data.decode("utf-8", "surrogateescape")
