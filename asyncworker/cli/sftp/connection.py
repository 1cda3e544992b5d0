"""Options that every command shares: how to reach the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from asyncworker.errors import SettingsError
from asyncworker.sftp.urls import parse_url

__all__ = ["connection_options", "parsed", "pool_options"]

C = TypeVar("C", bound=Callable[..., Any])


def connection_options(command: C) -> C:
    """Options of every command: how to reach the server, and how to print."""
    options = (
        click.option("-i", "--identity", "client_keys", multiple=True, metavar="FILE", help="A private key."),
        click.option("--known-hosts", metavar="FILE", help="File of known host keys; default ~/.ssh/known_hosts."),
        click.option("--host-key", metavar="KEY", help="The only host key to take: a public key or SHA256:..."),
        click.option("--jump", metavar="HOSTS", help="Hosts on the way, user@host:port, separated by commas."),
        click.option("--ssh-config", metavar="FILE", help="An OpenSSH client configuration to read."),
        click.option("--openssh", is_flag=True, help="Through the program ssh: its agent, keys and configuration."),
        click.option("--compress", is_flag=True, help="For slow lines."),
        click.option("--connections", type=click.IntRange(min=1), default=4, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="JSON, one object a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def parsed(url: str) -> tuple[str, str, dict[str, Any]]:
    """Host, path and login of a URL."""
    try:
        location = parse_url(url)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    return location.host, location.path or "/", location.login({})


def pool_options(login: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options of the pool, from a URL's login and the command line."""
    names = ("host_key", "jump", "ssh_config", "compress", "connections", "known_hosts", "timeout_s")
    options = login | {name: given[name] for name in names if given.get(name) is not None}
    # From the environment alone: a command line is seen by everybody on the machine.
    for name in ("password", "passphrase"):
        variable = f"ASYNCWORKER_SFTP_{name.upper()}"
        if variable in os.environ:
            options[f"{name}_env"] = variable
    if given["client_keys"]:
        options["client_keys"] = given["client_keys"]
    if given["openssh"]:
        options["transport"] = "openssh"
    return options
