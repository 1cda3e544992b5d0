"""The environment of a supervisor's workers: its own, and over it a file that is read whenever one is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from asyncworker.errors import SettingsError

__all__ = ["WorkerEnvironment", "read_environment_file"]


class WorkerEnvironment:
    """Makes the environment of each worker that is started.

    A name that the file had when the supervisor was started, and has no longer, is not passed on: a service manager
    that was given the same file has put it into the supervisor's own environment.

    Args:
        path: The file; empty: none.

    Raises:
        SettingsError: The file cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute() if path else None
        names = read_environment_file(self._path) if self._path else {}
        self._own = {name: value for name, value in os.environ.items() if name not in names}

    def __call__(self) -> Mapping[str, str]:
        """Return the environment, with what is in the file now.

        Raises:
            SettingsError: The file cannot be read.
        """
        return self._own | (read_environment_file(self._path) if self._path else {})


def read_environment_file(path: Path) -> dict[str, str]:
    """Read lines of ``NAME=VALUE``, as systemd's ``EnvironmentFile`` and Docker's ``--env-file`` have them.

    Empty lines and those that begin with ``#`` or ``;`` are left out; quotes around a value are taken away.

    Raises:
        SettingsError: It cannot be read, or a line is none of these; names the line, and not what is in it.
    """
    found = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the environment file {path} cannot be read: {exc}") from None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier() or "\0" in value:
            raise SettingsError(f"the environment file {path}: line {number} is not NAME=VALUE")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name] = value
    return found
