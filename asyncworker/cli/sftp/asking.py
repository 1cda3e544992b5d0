"""Questions on a terminal, as ssh asks them: a password, a key's passphrase, a host that is not known yet."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
import termios
from collections import Counter
from dataclasses import replace

import click

from asyncworker.errors import SFTPAuthError, SFTPConnectError, SFTPHostKeyError
from asyncworker.printable import printable
from asyncworker.sftp.host_keys import add_known_host
from asyncworker.sftp.options import Options

__all__ = ["Asker"]

_TRIES = 3
_WITHOUT_TERMINAL = {
    "password": "without a terminal to ask on, the password comes from ASYNCWORKER_SFTP_PASSWORD",
    "passphrase": "without a terminal to ask on, the passphrase comes from ASYNCWORKER_SFTP_PASSPHRASE",
}


class Asker:
    """Asks what a login lacks. One for each server; the answers hold as long as its pool."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    async def __call__(self, options: Options, error: SFTPConnectError) -> Options | None:
        """Return options to try again with; ``None``: nothing that could be asked would help.

        Raises:
            SFTPAuthError: There is no terminal; the error says what to do then.
        """
        if isinstance(error, SFTPHostKeyError):
            return await self._host_key(options, error)
        if not isinstance(error, SFTPAuthError):
            return None
        if error.encrypted_key is not None and not self._given_up("passphrase"):
            question = f"Enter passphrase for key '{printable(error.encrypted_key)}': "
            if passphrase := await self._secret("passphrase", question, error):
                return replace(options, passphrase=passphrase)
            self._asked["passphrase"] = _TRIES
        wrong = self._asked["password"] and options.password is not None
        if (error.takes_password or wrong) and not self._given_up("password"):
            user = options.username or getpass.getuser()
            if wrong:
                click.echo("Permission denied, please try again.", err=True)
            password = await self._secret("password", f"{user}@{options.host}'s password: ", error)
            return None if password is None else replace(options, password=password)
        return None

    def _given_up(self, what: str) -> bool:
        return self._asked[what] >= _TRIES

    async def _secret(self, what: str, question: str, error: SFTPAuthError) -> str | None:
        if not sys.stdin.isatty():
            raise SFTPAuthError(f"{error}; {_WITHOUT_TERMINAL[what]}", host=error.host)
        self._asked[what] += 1
        return await _line(question, hidden=True)

    async def _host_key(self, options: Options, error: SFTPHostKeyError) -> Options | None:
        if not (error.unknown and error.key and sys.stdin.isatty()):
            return None  # the error has the fingerprint, and says how to accept it
        kind, _, fingerprint = error.fingerprint.partition(" ")
        click.echo(
            f"The authenticity of host '{printable(error.name)}' can't be established.\n"
            f"{kind} key fingerprint is {fingerprint}.",
            err=True,
        )
        question = "Are you sure you want to continue connecting (yes/no/[fingerprint])? "
        while True:
            answer = await _line(question, hidden=False)
            if answer is None or answer.strip().lower() == "no":
                return None
            if answer.strip().lower() == "yes" or answer.strip() == fingerprint:
                break
            question = "Please type 'yes', 'no' or the fingerprint: "
        try:
            await asyncio.to_thread(add_known_host, error.known_hosts, error.name, error.key)
        except OSError as problem:
            click.echo(f"Warning: the key cannot be added to {error.known_hosts}: {problem.strerror}", err=True)
            return replace(options, host_key=error.key, accept_new=False)
        click.echo(f"Warning: permanently added '{printable(error.name)}' to the list of known hosts.", err=True)
        return options


async def _line(question: str, *, hidden: bool) -> str | None:
    """Read a line from the terminal, without a thread that could not be stopped; ``None``: it has ended."""
    fd = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    text = b""

    def take() -> None:
        nonlocal text
        piece = os.read(fd, 4096)
        text += piece
        if (not piece or b"\n" in text) and not answered.done():
            answered.set_result(text)

    before = termios.tcgetattr(fd)
    if hidden:
        silent = termios.tcgetattr(fd)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSANOW, silent)
    try:
        click.echo(question, nl=False, err=True)
        loop.add_reader(fd, take)
        line = await answered
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSANOW, before)
        if hidden:
            click.echo(err=True)
    return line.decode("utf-8", "surrogateescape").partition("\n")[0] if line else None
