"""Output of ``--json``: one object a line."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from asyncworker.cli.own_lines import echo_line

__all__ = ["echo_json"]


def echo_json(thing: Any) -> None:
    """Write one line, whatever text of others is in it."""
    try:
        line = msgspec.json.encode(thing).decode()
    except UnicodeEncodeError:
        # Half a surrogate pair has a form in JSON, but none in UTF-8.
        line = json.dumps(msgspec.to_builtins(thing), separators=(",", ":"))
    echo_line(line)
