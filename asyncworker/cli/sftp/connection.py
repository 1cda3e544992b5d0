"""Options that every command shares: how to reach the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from asyncworker.cli.sftp.amounts import DURATION, RATE, SIZE
from asyncworker.cli.sftp.asking import Asker
from asyncworker.cli.sftp.locations import remote_of
from asyncworker.sftp.options import DEFAULT_SSH_CONFIG

__all__ = ["AS_JSON", "connection_options", "parsed", "pool_options"]

_VALUES = (
    "host_key",
    "jump",
    "ssh_config",
    "connections",
    "in_flight",
    "window_bytes",
    "max_bytes_per_s",
    "timeout_s",
    "connect_timeout_s",
    "known_hosts",
)
_FLAGS = ("accept_new", "compress", "gentle")

#: Key of the context's ``meta``: whether the command that runs was given ``--json``.
AS_JSON = "asyncworker.cli.sftp.as_json"

C = TypeVar("C", bound=Callable[..., Any])


def connection_options(command: C) -> C:
    """Options of every command: how to reach the server, and how to print."""
    options = (
        click.option("-i", "--identity", "client_keys", multiple=True, metavar="FILE", help="A private key."),
        click.option("--known-hosts", metavar="FILE", help="File of known host keys; default ~/.ssh/known_hosts."),
        click.option("--host-key", metavar="KEY", help="The only host key to take: a public key or SHA256:..."),
        click.option("--jump", metavar="HOSTS", help="Hosts on the way, user@host:port, separated by commas."),
        click.option("--accept-new", is_flag=True, help="Accept and keep the key of a host that is not known yet."),
        click.option(
            "--ssh-config", metavar="FILE", help="In place of ~/.ssh/config and the system's; 'none': no file."
        ),
        click.option("--openssh", is_flag=True, help="Through the program ssh: its agent, keys and configuration."),
        click.option("--compress", is_flag=True, help="For slow lines."),
        click.option("--connections", type=click.IntRange(min=1), help="At most; default 4."),
        click.option("--in-flight", type=click.IntRange(min=1), help="Requests at once over all connections, at most."),
        click.option("--window-bytes", type=SIZE, help="Asked for or sent, and not answered."),
        click.option(
            "--bwlimit",
            "max_bytes_per_s",
            type=RATE,
            metavar="RATE",
            help="A second, both directions together: 500K, 1.5M; a plain number is KiB, as rsync and rclone have it.",
        ),
        click.option("--gentle", is_flag=True, help="One connection, 4 requests at once: for servers that hang up."),
        click.option("--timeout", "timeout_s", type=DURATION, help="Without any answer: 30, 2m; default 60."),
        click.option("--connect-timeout", "connect_timeout_s", type=DURATION, help="To connect; default 30."),
        click.option("--json", "as_json", is_flag=True, callback=_keep_json, help="JSON, one object a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _keep_json(context: click.Context, _: click.Parameter, value: bool) -> bool:
    context.meta[AS_JSON] = value
    return value


def parsed(argument: str) -> tuple[str, str, dict[str, Any]]:
    """Host, path and login of a URL or a ``host:path``."""
    remote = remote_of(argument)
    return remote.host, remote.path, remote.login


def pool_options(login: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options of the pool, from a URL's login and the command line."""
    options = login | {name: given[name] for name in _VALUES if given.get(name) is not None}
    options |= {name: True for name in _FLAGS if given.get(name)}
    # From the environment alone: a command line is seen by everybody on the machine.
    for name in ("password", "passphrase"):
        variable = f"ASYNCWORKER_SFTP_{name.upper()}"
        if variable in os.environ:
            options[f"{name}_env"] = variable
    if given["client_keys"]:
        options["client_keys"] = given["client_keys"]
    if given["openssh"]:
        options["transport"] = "openssh"
    else:
        options.setdefault("ssh_config", DEFAULT_SSH_CONFIG)
    options["ask"] = Asker()
    return options
