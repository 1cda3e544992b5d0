"""ProFTPD's mod_sftp: a server with an SSH of its own, which is neither OpenSSH's nor a library's."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncssh

from asyncworker.processes import Child
from tests.servers import MissingServer
from tests.servers.ports import free_port
from tests.servers.sftp import USERNAME
from tests.servers.sshd import Sshd

__all__ = ["running_proftpd"]

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_MODULES = ("/usr/lib/proftpd", "/usr/lib64/proftpd", "/usr/libexec", "/usr/local/libexec/proftpd")
_STARTED = "mode STARTUP"
_PORTS_TO_TRY = 5

#: Nothing of the machine's own configuration or accounts plays a part; it runs as whoever runs the tests.
_CONFIG = """\
ModulePath {modules}
LoadModule mod_sftp.c
ServerType standalone
ServerName "tests"
DefaultAddress 127.0.0.1
Port {port}
UseIPv6 off
UseReverseDNS off
User {user}
Group {group}
PidFile {folder}/pid
ScoreboardFile {folder}/scoreboard
DelayEngine off
WtmpLog off
TransferLog none
SystemLog {folder}/proftpd.log
AuthOrder mod_auth_file.c
AuthUserFile {folder}/passwd
AuthPAM off
UseFtpUsers off
RootLogin on
RequireValidShell off
Umask 022
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
MaxInstances none
SFTPEngine on
SFTPLog {folder}/sftp.log
SFTPHostKey {folder}/host_key
SFTPAuthorizedUserKeys file:{folder}/keys/%u
SFTPAuthMethods publickey
"""


@contextlib.contextmanager
def running_proftpd(folder: Path, *config: str) -> Iterator[Sshd]:
    """Start a server on a free port of 127.0.0.1.

    Args:
        folder: For its files; made if it does not exist.
        config: More lines for its configuration.

    Raises:
        MissingServer: ProFTPD or its mod_sftp is not installed.
    """
    program = shutil.which("proftpd", path=os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS)))
    modules = next((path for path in _MODULES if Path(path, "mod_sftp.so").exists()), None)
    if program is None or modules is None:
        raise MissingServer("ProFTPD with mod_sftp is not installed (Debian: proftpd-core, proftpd-mod-crypto)")
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    host_key = _write_key(folder / "host_key").export_public_key().decode()
    client_key = _write_key(folder / "client_key")
    (folder / "keys" / USERNAME).write_text(client_key.export_public_key("rfc4716").decode())
    account = folder / "passwd"
    account.touch(mode=0o600)
    account.write_text(f"{USERNAME}:*:{os.getuid()}:{os.getgid()}::{folder}:/bin/sh\n")
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    for _ in range(_PORTS_TO_TRY):
        port = free_port()
        text = _CONFIG.format(modules=modules, port=port, user=user, group=group, folder=folder)
        (folder / "proftpd.conf").write_text(text + "".join(f"{line}\n" for line in config))
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        log = folder / "proftpd.log"
        command = [program, "-n", "-q", "-c", str(folder / "proftpd.conf")]
        with Child(command, log=log) as child:
            started = child.wait_for_log(_STARTED, 120.0)
            if not started:
                continue  # that port was taken in between
            server = Sshd("127.0.0.1", port, USERNAME, folder / "client_key", folder / "known_hosts", child)
            try:
                yield server
            finally:
                server.kill_sessions()  # they end by themselves otherwise, some time after the listener
            return
    raise RuntimeError(f"proftpd did not start:\n{log.read_text()}")


def _write_key(path: Path) -> asyncssh.SSHKey:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    key.write_private_key(path)
    return key
