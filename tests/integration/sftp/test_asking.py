"""The command line on a terminal and without one: passwords, passphrases, hosts that are not known."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import asyncssh
import pytest

from tests.integration.sftp.conftest import Folders
from tests.servers.sftp import SFTPServer
from tests.servers.sshd import Sshd


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, home: Path, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "asyncworker", "sftp", *map(str, arguments)]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("SSH_AUTH_SOCK", "ASYNCWORKER_SFTP_PASSWORD")
        }
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"HOME": str(home)},
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str) -> None:
        """Read until those words have come."""
        while words not in self.text:
            ready, _, _ = select.select([self.master], [], [], 60)
            assert ready, self.text
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the command has ended
                piece = b""
            assert piece, self.text
            self.text += piece.decode()

    def say(self, line: str) -> None:
        """Type a line."""
        os.write(self.master, line.encode() + b"\n")

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                break
            if not piece:
                break
            self.text += piece.decode()
        os.close(self.master)
        return self.process.wait(120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    (made / ".ssh").mkdir(parents=True, mode=0o700)
    return made


def without_terminal(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    return subprocess.run(
        [sys.executable, "-m", "asyncworker", "sftp", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment | {"HOME": str(home)},
    )


@pytest.mark.parametrize("openssh", [False, True])
def test_a_password_is_asked_for_and_not_shown(_asyncssh_server: SFTPServer, home: Path, openssh: bool) -> None:
    server = _asyncssh_server
    url = f"sftp://{server.username}@{server.host}:{server.port}/"
    more = ["--known-hosts", server.known_hosts, *(["--openssh"] if openssh else [])]
    terminal = Terminal(home, "ls", url, *more)
    terminal.until(f"{server.username}@{server.host}'s password: ")
    assert not terminal.echoes()
    terminal.text = ""  # the next question is another one
    terminal.say("hunter2")
    terminal.until("Permission denied, please try again.")
    terminal.until("'s password: ")
    terminal.text = ""
    terminal.say(server.password)
    assert terminal.end() == 0, terminal.text
    assert "etc" in terminal.text
    assert server.password not in terminal.text
    ran = without_terminal(home, "ls", url, *more)
    assert ran.returncode != 0
    assert "ASYNCWORKER_SFTP_PASSWORD" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_password_for_a_transfer(_asyncssh_server: SFTPServer, home: Path, folders: Folders) -> None:
    server = _asyncssh_server
    folders.make("a", b"content")
    url = f"sftp://{server.username}@{server.host}:{server.port}{folders.remote}"
    terminal = Terminal(home, "get", url, folders.local, "--known-hosts", server.known_hosts)
    terminal.until("'s password: ")
    terminal.say(server.password)
    assert terminal.end() == 0, terminal.text
    assert (folders.local / "a").read_bytes() == b"content"


def test_ctrl_c_at_the_question_ends_the_command_and_leaves_the_terminal_as_it_was(
    _asyncssh_server: SFTPServer, home: Path
) -> None:
    server = _asyncssh_server
    url = f"sftp://{server.username}@{server.host}:{server.port}/"
    terminal = Terminal(home, "ls", url, "--known-hosts", server.known_hosts)
    terminal.until("'s password: ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.process.wait(120)
    assert terminal.echoes()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_a_passphrase_is_asked_for(sshd: Sshd, home: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    asyncssh.read_private_key(sshd.client_key).write_private_key(key, passphrase="open sesame")
    key.chmod(0o600)
    url = f"sftp://{sshd.username}@{sshd.host}:{sshd.port}/"
    more = ["--known-hosts", sshd.known_hosts, "-i", key]
    terminal = Terminal(home, "ls", url, *more)
    terminal.until(f"Enter passphrase for key '{key}': ")
    terminal.say("no")
    terminal.until("\n")
    terminal.text = ""
    terminal.until("Enter passphrase")
    terminal.say("open sesame")
    assert terminal.end() == 0, terminal.text
    ran = without_terminal(home, "ls", url, *more)
    assert ran.returncode != 0
    assert "ASYNCWORKER_SFTP_PASSPHRASE" in ran.stderr


@pytest.mark.parametrize("answer", ["yes", "fingerprint", "no"])
def test_a_host_that_is_not_known_is_asked_about_with_its_fingerprint(sshd: Sshd, home: Path, answer: str) -> None:
    key = asyncssh.import_public_key(sshd.known_hosts.read_text().partition(" ")[2])
    url = f"sftp://{sshd.username}@{sshd.host}:{sshd.port}/"
    terminal = Terminal(home, "ls", url, "-i", sshd.client_key)
    terminal.until("(yes/no/[fingerprint])? ")
    assert key.get_fingerprint() in terminal.text
    terminal.say("perhaps")
    terminal.until("Please type")
    terminal.say(key.get_fingerprint() if answer == "fingerprint" else answer)
    code = terminal.end()
    known = home / ".ssh" / "known_hosts"
    if answer == "no":
        assert code != 0
        assert not known.exists()
        return
    assert code == 0, terminal.text
    assert sshd.known_hosts.read_text().split()[2] in known.read_text()
    assert without_terminal(home, "ls", url, "-i", sshd.client_key).returncode == 0  # it is known now


@pytest.mark.parametrize("openssh", [False, True])
def test_a_host_that_is_not_known_is_refused_without_a_terminal(sshd: Sshd, home: Path, openssh: bool) -> None:
    key = asyncssh.import_public_key(sshd.known_hosts.read_text().partition(" ")[2])
    url = f"sftp://{sshd.username}@{sshd.host}:{sshd.port}/"
    more = ["--openssh", "--ssh-config", "none", "--known-hosts", home / "known"] if openssh else []
    ran = without_terminal(home, "ls", url, "-i", sshd.client_key, *more)
    assert ran.returncode != 0
    assert "--accept-new" in ran.stderr
    assert openssh or key.get_fingerprint() in ran.stderr
    assert without_terminal(home, "ls", url, "-i", sshd.client_key, "--accept-new", *more).returncode == 0
