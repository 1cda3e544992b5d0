"""Arguments of ``asyncworker sftp``: which of them name something on a server, and what."""

from __future__ import annotations

from typing import Any

import click
import pytest

from asyncworker.cli.sftp.locations import Remote, is_remote, remote_of

REMOTE: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "host:/in/a": ("host", "/in/a", {}, True),
    "host:in/a": ("host", "in/a", {}, True),
    "host:": ("host", ".", {}, False),
    "host:~": ("host", ".", {}, True),
    "host:~/in": ("host", "in", {}, True),
    "host:~other": ("host", "~other", {}, True),
    "me@host:in": ("host", "in", {"username": "me"}, True),
    "me@corp@host:/in": ("host", "/in", {"username": "me@corp"}, True),
    "host:100%20 ?#.xml": ("host", "100%20 ?#.xml", {}, True),
    "host:a:b": ("host", "a:b", {}, True),
    "host:/a@b": ("host", "/a@b", {}, True),
    "host:./a@b": ("host", "./a@b", {}, True),
    "host:sub/a@b": ("host", "sub/a@b", {}, True),
    "[::1]:/in": ("::1", "/in", {}, True),
    "me@[fe80::1]:in": ("fe80::1", "in", {"username": "me"}, True),
    "sftp://me@host:22/in%20": ("host", "/in ", {"port": 22, "username": "me"}, True),
    "sftp://host/~/in": ("host", "in", {}, True),
    "sftp://host": ("host", "/", {}, False),
    "sftp://host/": ("host", "/", {}, True),
}


@pytest.mark.parametrize("argument", REMOTE)
def test_what_a_remote_argument_names(argument: str) -> None:
    assert is_remote(argument)
    assert remote_of(argument) == Remote(*REMOTE[argument])


@pytest.mark.parametrize("argument", ["a", "./a:b", "/a:b", "sub/a:b", "a b/c:d", ":a", "", ".", "-", "~/a:b"])
def test_a_local_path_has_no_colon_in_its_first_name(argument: str) -> None:
    assert not is_remote(argument)


BAD = ["a", "./a:b", ":in", "@host:in", "host::module", "ho?st:in", "[::1", "[::1]", "[::1]x:in", "http://host/in"]


@pytest.mark.parametrize("argument", BAD)
def test_what_names_nothing_on_a_server(argument: str) -> None:
    with pytest.raises(click.UsageError, match="sftp://user@host:port/path"):
        remote_of(argument)


@pytest.mark.parametrize("argument", ["me:hunter2@host:/in", "me:hunter2@host/in", "me:hunter2@host", ":hunter2@host:"])
def test_a_password_is_refused_and_not_shown(argument: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        remote_of(argument)
    assert "hunter2" not in str(caught.value)
