"""Host keys of transport ``asyncssh``: known ones, pinned ones, and new ones that may be accepted and kept."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Any

import asyncssh

from asyncworker.errors import SFTPHostKeyError
from asyncworker.sftp.login_gate import hold_login
from asyncworker.sftp.ssh_target import Target

__all__ = ["Client", "add_known_host", "host_key_error", "read_known_hosts"]

logger = logging.getLogger(__name__)

#: Keys that this process has accepted, by file, name and port: the next connection takes no other one.
_accepted: dict[tuple[str, str, int], str] = {}


class Client(asyncssh.SSHClient):
    """Judges the host key of one host on the way, and keeps what it was.

    Attributes:
        refused: The key that was not taken.
        unknown: Whether no key of that host is known, so that the refused one contradicts none.
        offers: Methods of logging in that the server offers beyond keys.
    """

    def __init__(self, target: Target, known_hosts: Any) -> None:
        self._target = target
        self._known_hosts = known_hosts
        self._accepted: asyncssh.SSHKey | None = None
        self.name = ""
        self.refused: asyncssh.SSHKey | None = None
        self.unknown = False
        self.offers: set[str] = set()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """The network is there; the key exchange and the login follow."""
        hold_login(conn)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that is not among the known ones."""
        options = self._target.options
        self.name = host if port in (0, 22) else f"[{host}]:{port}"
        if options.host_key is not None:
            if options.host_key == key.get_fingerprint():
                return True
            self.refused = key
            return False
        files = self._target.known_hosts or ("",)
        found = asyncssh.match_known_hosts(self._known_hosts, host, addr, port) if self._known_hosts else ()
        known = _accepted.get((files[0], host, port))
        self.unknown = not any(found[:2]) and not any(found[3:])
        if self.unknown and self._target.accept_new and known in (None, _line(key)):
            self._accepted = key
            _accepted[(files[0], host, port)] = _line(key)
            return True
        self.unknown = self.unknown and known is None
        self.refused = key
        return False

    def password_auth_requested(self) -> None:
        """The server would take a password."""
        self.offers.add("password")

    def kbdint_auth_requested(self) -> Any:
        """The server asks questions, as a rule for a password."""
        if self._target.options.password is not None:
            return NotImplemented  # asyncssh answers with the password
        self.offers.add("keyboard-interactive")
        return None

    def keep_accepted(self) -> None:
        """Add a key that was accepted to the file of known hosts. Blocks: for a thread."""
        key, self._accepted = self._accepted, None
        if key is None or not self._target.known_hosts:
            return
        address = self._target.options.address
        try:
            add_known_host(self._target.known_hosts[0], self.name, _line(key))
        except OSError as error:
            logger.warning("%s: the new host key %s could not be kept: %s", address, key.get_fingerprint(), error)
        else:
            logger.info("%s: the new host key %s is kept from now on", address, key.get_fingerprint())


def add_known_host(path: str, name: str, key: str) -> None:
    """Add a key to a file of known hosts, which is made if it is missing. Blocks: for a thread.

    Raises:
        OSError: It cannot be written.
    """
    file = Path(path)
    if path == os.devnull:
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+", encoding="utf-8", errors="surrogateescape") as known:
        fcntl.flock(fd, fcntl.LOCK_EX)  # several processes meet a host for the first time together
        text = known.read()
        if f"{name} {key}" not in text:
            known.write(("" if not text or text.endswith("\n") else "\n") + f"{name} {key}\n")


def read_known_hosts(target: Target) -> Any:
    """Return the known keys as asyncssh wants them. Blocks: for a thread.

    Raises:
        ValueError: A file, or the pinned key, cannot be understood.
    """
    options = target.options
    if options.host_key is not None:
        if options.host_key.startswith("SHA256:"):
            return [], [], []  # the client compares the fingerprint
        try:
            return [asyncssh.import_public_key(options.host_key)], [], []
        except asyncssh.KeyImportError as error:
            raise ValueError(f"host_key: {error}") from error
    if target.known_hosts is None:
        return None
    files = [file for file in target.known_hosts if Path(file).is_file()]
    # asyncssh would fall back to the default file for a value that is empty; nothing known must mean nothing known.
    return asyncssh.read_known_hosts(files) if files else ([], [], [])


def host_key_error(client: Client, target: Target, error: asyncssh.Error) -> SFTPHostKeyError:
    """Make the error of a key that was not taken: what it is, and what to do."""
    options, found = target.options, client.refused
    where = options.address
    shown = f"{found.get_algorithm()} {found.get_fingerprint()}" if found else str(error)
    files = ", ".join((target.known_hosts or ())[:1])
    if options.host_key is not None:
        message = f"{where}: the host key is not the one that host_key asks for. Found {shown}."
    elif client.unknown:
        port = "" if options.port == 22 else f"-p {options.port} "
        message = (
            f"{where}: the host key is not known. Found {shown}; looked in {files}. Ask the server's operator for the"
            " fingerprint; only if it is that one, accept it: with accept_new=True (--accept-new), or by"
            f" ssh-keyscan {port}{target.hostname} >> {files}"
        )
    else:
        port = "" if options.port == 22 else f"-p {options.port} "
        message = (
            f"{where}: the host key is not the known one. Found {shown}; looked in {files}. Somebody may be in between."
            " Ask the server's operator for the fingerprint; only if it is that one, remove the old key from that file"
            f" and add the new one: ssh-keyscan {port}{target.hostname} >> {files}"
        )
    made = SFTPHostKeyError(message, host=where)
    if client.unknown and found is not None and target.known_hosts:
        made.unknown = True
        made.known_hosts, made.name = target.known_hosts[0], client.name
        made.key, made.fingerprint = _line(found), f"{found.get_algorithm()} {found.get_fingerprint()}"
    return made


def _line(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode().split()[:2])
