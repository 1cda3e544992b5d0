"""Passwords and passphrases for the program ``ssh``, which asks a helper for them where there is no terminal.

They are in the environment of that process, where its own user and root may read them, and never on a command line, in
a file or in a log. The helper answers no other question.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from asyncworker.sftp.options import Options

__all__ = ["askpass_environment", "askpass_settings"]

_PASSWORD = "ASYNCWORKER_SSH_PASSWORD"
_PASSPHRASE = "ASYNCWORKER_SSH_PASSPHRASE"
#: ssh's own question begins so; what a server asks has user and host before it.
_HELPER = f"""\
#!/bin/sh
[ -z "$SSH_ASKPASS_PROMPT" ] || exit 1
case "$1" in
"Enter passphrase for "*) [ -n "${_PASSPHRASE}" ] && printf '%s\\n' "${_PASSPHRASE}" ;;
*) [ -n "${_PASSWORD}" ] && printf '%s\\n' "${_PASSWORD}" ;;
esac
"""


def askpass_settings(options: Options) -> dict[str, Any]:
    """Settings of ``ssh``, in addition to others or in place of them."""
    if options.password is None and options.passphrase is None:
        return {"BatchMode": "yes"}
    settings: dict[str, Any] = {"BatchMode": "no", "NumberOfPasswordPrompts": 1}
    if options.password is None:
        settings["PreferredAuthentications"] = "publickey"
    elif options.client_keys is None:
        settings["PubkeyAuthentication"] = "no"
    if options.passphrase is not None:
        settings["KbdInteractiveAuthentication"] = "no"  # a server must not ask for the passphrase
    return settings


def askpass_environment(options: Options, environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of ``ssh``; ``None``: that of this process. Writes a file at first: for a thread."""
    if options.password is None and options.passphrase is None:
        return None
    made = {name: value for name, value in environment.items() if name not in (_PASSWORD, _PASSPHRASE)}
    made |= {"SSH_ASKPASS": _helper(), "SSH_ASKPASS_REQUIRE": "force"}
    made.setdefault("DISPLAY", "none:0")  # before OpenSSH 8.4, ssh asks the helper only where there is one
    if options.password is not None:
        made[_PASSWORD] = options.password
    if options.passphrase is not None:
        made[_PASSPHRASE] = options.passphrase
    return made


@cache
def _helper() -> str:
    fd, path = tempfile.mkstemp(prefix="asyncworker-askpass-")
    with os.fdopen(fd, "w") as file:
        file.write(_HELPER)
        os.fchmod(fd, 0o700)
    atexit.register(_remove, path, os.getpid())
    return path


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        with contextlib.suppress(OSError):
            Path(path).unlink()
