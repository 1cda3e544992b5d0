"""OpenSSH client configuration: what ``~/.ssh/config`` says of one host. Blocks: for a thread.

Source: ssh_config(5). Of each keyword the first value counts, except for those of which there may be several.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asyncworker.errors import SettingsError
from asyncworker.sftp.options import DEFAULT_SSH_CONFIG, NO_SSH_CONFIG, expanded

__all__ = ["HostConfig", "files_of", "look_up", "matches"]

_SYSTEM = "/etc/ssh/ssh_config"
_MAX_DEPTH = 16
#: Keywords of which every value counts.
_SEVERAL = frozenset({"identityfile", "certificatefile"})
#: Keywords whose argument is the rest of the line, quotes and all.
_WHOLE_LINE = frozenset({"proxycommand", "localcommand", "remotecommand", "knownhostscommand"})
_WORD = re.compile(r'"([^"]*)"|\'([^\']*)\'|([^\s"\']+)')


@dataclass
class HostConfig:
    """Configuration of one host, from the files.

    Attributes:
        values: Keyword, in small letters, to its arguments; of those in several lines, all of them.
        places: Keyword to the file and line where it stands.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def get(self, keyword: str) -> str | None:
        """Return the first argument of a keyword."""
        found = self.values.get(keyword)
        return found[0] if found else None

    def is_on(self, keyword: str) -> bool | None:
        """Return whether a keyword is ``yes``; ``None``: it is not there."""
        value = self.get(keyword)
        return None if value is None else value.lower() in ("yes", "true")


def files_of(ssh_config: str | None) -> list[tuple[str, bool]]:
    """Return the files that an option stands for, and whether each must exist."""
    if ssh_config is None or ssh_config.lower() == NO_SSH_CONFIG:
        return []
    if ssh_config == expanded(DEFAULT_SSH_CONFIG):
        return [(ssh_config, False), (_SYSTEM, False)]
    return [(ssh_config, True)]


def look_up(host: str, username: str | None, files: list[tuple[str, bool]]) -> HostConfig:
    """Read what the files say of a host.

    Args:
        host: As the caller names it.
        username: As the caller gives it, for ``Match user``.
        files: As :func:`files_of` returns them.

    Raises:
        SettingsError: A file that cannot be read or understood, or asks for what cannot be done; names file and line.
    """
    reader = _Reader(host, username)
    for path, required in files:
        reader.read(path, required, 0, active=True)
    if reader.has_final:  # "Match final" is met in a second pass, which adds what the first has not found
        reader.final = True
        for path, required in files:
            reader.read(path, required, 0, active=True)
    return reader.found


class _Reader:
    def __init__(self, host: str, username: str | None) -> None:
        self._host = host
        self._username = username
        self.found = HostConfig()
        self.final = self.has_final = False

    def read(self, path: str, required: bool, depth: int, active: bool) -> None:
        if depth > _MAX_DEPTH:
            raise SettingsError(f"{path}: Include goes deeper than {_MAX_DEPTH} files")
        try:
            text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            if required:
                raise SettingsError(f"SSH configuration {path} does not exist") from None
            return
        except IsADirectoryError:
            if required:
                raise SettingsError(f"SSH configuration {path} is a folder") from None
            return  # as ssh has it: a pattern of Include may meet one
        except OSError as error:
            raise SettingsError(f"SSH configuration {path} cannot be read: {error.strerror}") from None
        outer = active
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path}, line {number}"
            keyword, rest = _split(line)
            if not keyword:
                continue
            words = [rest] if keyword in _WHOLE_LINE else list(_words(rest, where))
            if not words:
                raise SettingsError(f"{where}: {keyword} without a value")
            if keyword == "host":
                active = outer and matches(self._host, words)
            elif keyword == "match":
                active = outer and self._meets(words, where)
            elif keyword == "include":
                for name in words:
                    for included in _included(name, path):
                        self.read(included, False, depth + 1, active)
            elif active:
                self._take(keyword, words, where)

    def _take(self, keyword: str, words: list[str], where: str) -> None:
        values = self.found.values
        if keyword in _SEVERAL:
            known = values.setdefault(keyword, [])
            known.extend(word for word in words[:1] if word not in known)
        elif keyword in values:
            return
        else:
            values[keyword] = words
        self.found.places.setdefault(keyword, where)

    def _meets(self, words: list[str], where: str) -> bool:
        words = list(words)
        while words:
            criterion = words.pop(0)
            name, equals, value = criterion.partition("=")
            negated, name = name.startswith("!"), name.lstrip("!").lower()
            if name == "all":
                met = True
            elif name == "canonical":
                met = False  # names are never rewritten here
            elif name == "final":
                self.has_final = True
                met = self.final
            elif name in ("host", "originalhost", "user", "localuser"):
                patterns = value if equals else (words.pop(0) if words else "")
                met = matches(self._subject(name), patterns.split(","))
            else:
                raise SettingsError(
                    f"{where}: 'Match {name}' is not supported by transport 'asyncssh'; transport='openssh' knows it"
                )
            if met == negated:
                return False
        return True

    def _subject(self, criterion: str) -> str:
        if criterion == "host":
            return (self.found.get("hostname") or self._host).replace("%h", self._host)
        if criterion == "originalhost":
            return self._host
        if criterion == "user":
            return self._username or self.found.get("user") or getpass.getuser()
        return getpass.getuser()


def matches(text: str, patterns: list[str]) -> bool:
    """Return whether a name matches one of the patterns (``*`` and ``?``) and none of those after a ``!``."""
    met = False
    for pattern in patterns:
        negated, plain = pattern.startswith("!"), pattern.lstrip("!")
        expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in plain)
        if re.fullmatch(expression, text, re.IGNORECASE | re.DOTALL):
            if negated:
                return False
            met = True
    return met


def _split(line: str) -> tuple[str, str]:
    line = line.strip()
    if not line or line.startswith("#"):
        return "", ""
    found = re.match(r"([^\s=]*)\s*=?\s*(.*)", line, re.DOTALL)
    assert found is not None
    return found.group(1).lower(), found.group(2)


def _words(text: str, where: str) -> Iterator[str]:
    place = 0
    while True:
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text) or text[place] == "#":
            return
        word = ""
        while place < len(text) and not text[place].isspace():
            found = _WORD.match(text, place)
            if found is None:
                raise SettingsError(f"{where}: a quote that is not closed")
            word += next(part for part in found.groups() if part is not None)
            place = found.end()
        yield word


def _included(name: str, path: str) -> list[str]:
    name = expanded(name)
    if not os.path.isabs(name):  # noqa: PTH117
        base = os.path.dirname(_SYSTEM) if path.startswith("/etc/ssh/") else expanded("~/.ssh")  # noqa: PTH120
        name = os.path.join(base, name)  # noqa: PTH118

    return sorted(glob.glob(name))  # noqa: PTH207
