"""Where a connection really goes: a pool's options, and what the SSH configuration says where they say nothing.

What a configuration asks for and transport ``asyncssh`` cannot do is refused by name where it concerns the way or the
safety of the connection, and named in the log where it does not. Blocks: for a thread.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import re
import socket
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import asyncssh

from asyncworker.errors import SettingsError
from asyncworker.sftp.options import Options, expanded, jumps
from asyncworker.sftp.ssh_config import HostConfig, files_of, look_up, matches
from asyncworker.sftp.ssh_keywords import NO_MEANING, REFUSED, USED

__all__ = ["Target", "config_of", "new_keys_accepted", "target_of", "timed"]

logger = logging.getLogger(__name__)

_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_MAX_HOPS = 8
#: Places of keywords without effect that the log has named.
_named: set[str] = set()


@dataclass(frozen=True)
class Target:
    """One host on the way, or the last one.

    Attributes:
        options: With what the configuration adds to them.
        hostname: Its name or address on the network.
        known_hosts: Files of known host keys; new keys go into the first. ``None``: no check.
        host_key_alias: Its name in those files.
        accept_new: Whether to take the key of a host that is not known yet.
        proxy_command: A command whose input and output lead there.
        jumps: Hosts on the way, the nearest first.
        arguments: For asyncssh, in addition.
    """

    options: Options
    hostname: str
    known_hosts: tuple[str, ...] | None
    host_key_alias: str | None = None
    accept_new: bool = False
    proxy_command: tuple[str, ...] | None = None
    jumps: tuple[Target, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def config_of(options: Options) -> HostConfig:
    """Read what the SSH configuration says of a pool's host.

    Raises:
        SettingsError: A file that cannot be read or understood.
    """
    ssh_config = options.ssh_config
    if ssh_config is None and options.transport == "openssh":
        ssh_config = expanded("~/.ssh/config")
    return look_up(options.host, options.username, files_of(ssh_config))


def timed(options: Options) -> Options:
    """Return options with the times of the SSH configuration, where the caller gives none."""
    if not options.unsaid:
        return options
    try:
        config = config_of(options)
    except SettingsError:
        if options.transport == "openssh":
            return options  # ssh knows more, or says what is wrong
        raise
    found: dict[str, Any] = {}
    for name, keyword in (("connect_timeout_s", "connecttimeout"), ("keepalive_s", "serveraliveinterval")):
        seconds = _seconds(config, keyword) if name in options.unsaid else None
        if seconds:
            found[name] = seconds
    return replace(options, **found)


def new_keys_accepted(config: HostConfig) -> bool:
    """Return whether a configuration accepts keys of unknown hosts; ``no`` counts as ``accept-new``."""
    return (config.get("stricthostkeychecking") or "ask").lower() in ("accept-new", "no", "off")


def target_of(options: Options, way: tuple[str, ...] = ()) -> Target:
    """Find out where a connection goes, and by which hosts.

    Raises:
        SettingsError: The configuration cannot be understood, asks for what cannot be done, or leads in a circle.
    """
    config = config_of(options)
    _check(config, options.address)
    unsaid = options.unsaid
    found: dict[str, Any] = {}
    if "port" in unsaid and (port := config.get("port")) is not None:
        found["port"] = _number(config, "port", port)
    if "username" in unsaid and (user := config.get("user")) is not None:
        found["username"] = user
    if "compress" in unsaid and config.is_on("compression"):
        found["compress"] = True
    with_user = replace(options, **found)
    hostname = _expand(config.get("hostname") or options.host, {"h": options.host}, config, "hostname")
    tokens = _tokens(with_user, hostname, config)
    if "client_keys" in unsaid and (keys := config.values.get("identityfile")):
        files = tuple(_path(key, tokens, config, "identityfile") for key in keys if key.lower() != "none")
        # ssh passes over those that do not exist; with none at all, it would try its usual ones.
        found["client_keys"] = tuple(file for file in files if os.path.exists(file)) or files  # noqa: PTH110
    known_hosts, accept_new = _known_hosts(with_user, config, tokens)
    proxy_command, hops = _way(with_user, config, tokens, (*way, options.host))
    return Target(
        options=replace(options, **found),
        hostname=hostname,
        known_hosts=known_hosts,
        host_key_alias=config.get("hostkeyalias"),
        accept_new=accept_new,
        proxy_command=proxy_command,
        jumps=hops,
        arguments=_arguments(with_user, config, tokens),
    )


def _check(config: HostConfig, address: str) -> None:
    ignored = config.values.get("ignoreunknown", [])
    patterns = [pattern for word in ignored for pattern in word.split(",")]
    for keyword, words in config.values.items():
        if keyword in REFUSED and words[0].lower() != REFUSED[keyword]:
            raise SettingsError(
                f"{address}: {config.places[keyword]}: {keyword} is not supported by transport 'asyncssh';"
                " transport='openssh' knows it, or name another ssh_config"
            )
        if keyword in USED or keyword in NO_MEANING or keyword in REFUSED or matches(keyword, patterns):
            continue
        if config.places[keyword] not in _named:  # once, not at each connection
            _named.add(config.places[keyword])
            logger.warning("%s: %s: %s has no effect with asyncssh", address, config.places[keyword], keyword)


def _known_hosts(options: Options, config: HostConfig, tokens: dict[str, str]) -> tuple[tuple[str, ...] | None, bool]:
    accept_new = options.accept_new
    if "known_hosts" not in options.unsaid:
        return (None if options.known_hosts is None else (options.known_hosts,)), accept_new
    assert options.known_hosts is not None
    accept_new = accept_new or new_keys_accepted(config)
    users = config.values.get("userknownhostsfile", [options.known_hosts, f"{options.known_hosts}2"])
    everyones = config.values.get("globalknownhostsfile", list(_GLOBAL_KNOWN_HOSTS))
    files = [_path(name, tokens, config, "userknownhostsfile") for name in (*users, *everyones) if name != "none"]
    return tuple(files), accept_new


def _way(
    options: Options, config: HostConfig, tokens: dict[str, str], way: tuple[str, ...]
) -> tuple[tuple[str, ...] | None, tuple[Target, ...]]:
    """The command or the hosts that lead there: whichever stands first in the configuration, as ssh has it."""
    jump = options.jump
    if jump is None and "jump" in options.unsaid:
        keywords = [keyword for keyword in config.values if keyword in ("proxyjump", "proxycommand")]
        for keyword in keywords[:1]:
            value = config.values[keyword][0]
            if value.lower() == "none":
                break
            if keyword == "proxycommand":
                return ("/bin/sh", "-c", f"exec {_expand(value, tokens, config, keyword)}"), ()
            jump = _expand(value, tokens, config, keyword)
    hops = jumps(jump)
    if len(way) > _MAX_HOPS:
        raise SettingsError(f"{options.address}: the jump hosts go in a circle: {' by '.join(way)}")
    targets: list[Target] = []
    for username, host, port in hops:
        if jump != options.jump and host in way:
            raise SettingsError(f"{options.address}: the jump hosts go in a circle: {host} by {host}")
        said = {"jump"} if targets else set()  # only the first one may need hosts on its own way
        said |= {"port"} if port is not None else set()
        said |= {"username"} if username is not None or "username" not in options.unsaid else set()
        hop = replace(
            options,
            host=host,
            port=port or 22,
            username=username or (options.username if "username" not in options.unsaid else None),
            jump=None,
            host_key=None,
            unsaid=options.unsaid - said | ({"jump"} if options.unsaid and not targets else set()),
        )
        target = target_of(hop, way)
        targets += [*target.jumps, replace(target, jumps=())]
    return None, tuple(targets)


def _arguments(options: Options, config: HostConfig, tokens: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword, name in (
        ("ciphers", "encryption_algs"),
        ("macs", "mac_algs"),
        ("kexalgorithms", "kex_algs"),
        ("hostkeyalgorithms", "server_host_key_algs"),
        ("pubkeyacceptedkeytypes", "signature_algs"),
        ("pubkeyacceptedalgorithms", "signature_algs"),
        ("preferredauthentications", "preferred_auth"),
    ):
        if (value := config.get(keyword)) is not None and (usable := _usable(name, value)):
            found[name] = usable
        elif value is not None and value[0] not in "+-^":
            raise SettingsError(f"{config.places[keyword]}: asyncssh knows none of those {keyword}")
    for keyword, name in (
        ("passwordauthentication", "password_auth"),
        ("pubkeyauthentication", "public_key_auth"),
        ("challengeresponseauthentication", "kbdint_auth"),
        ("kbdinteractiveauthentication", "kbdint_auth"),
    ):
        if config.is_on(keyword) is False:
            found[name] = False
    if (address := config.get("bindaddress")) is not None:
        found["local_addr"] = (address, 0)
    family = (config.get("addressfamily") or "any").lower()
    if family != "any":
        found["family"] = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(family, socket.AF_UNSPEC)
    agent = config.get("identityagent")
    if agent is not None and agent != "SSH_AUTH_SOCK":
        found["agent_path"] = None if agent.lower() == "none" else _path(agent, tokens, config, "identityagent")
    if config.is_on("identitiesonly") and "client_keys" in options.unsaid and config.values.get("identityfile"):
        found["agent_path"] = None  # keys are read from their files alone
    certificates = config.values.get("certificatefile")
    if certificates:
        found["client_certs"] = [_path(file, tokens, config, "certificatefile") for file in certificates]
    return found


@lru_cache(maxsize=64)
def _usable(name: str, value: str) -> str:
    """Leave out algorithms that asyncssh does not know: the lists of whole systems are longer."""
    if name == "preferred_auth" or _is_usable(name, value):
        return value
    prefix = value[0] if value[0] in "+-^" else ""
    patterns = [pattern for pattern in value.removeprefix(prefix).split(",") if _is_usable(name, pattern)]
    return prefix + ",".join(patterns) if patterns else ""


def _is_usable(name: str, value: str) -> bool:
    known: dict[str, Any] = {"config": None, "client_keys": None, "known_hosts": None, "agent_path": None, name: value}
    try:
        asyncssh.SSHClientConnectionOptions(**known)
    except ValueError:
        return False
    return True


def _tokens(options: Options, hostname: str, config: HostConfig) -> dict[str, str]:
    """Tokens of ssh_config(5) that stand for the same in all keywords that are taken over."""
    local_user, local_host = getpass.getuser(), socket.gethostname()
    port, username = str(options.port), options.username or local_user
    jump = options.jump if options.jump is not None else config.get("proxyjump") or ""
    if jump.lower() == "none":
        jump = ""
    return {
        "%": "%",
        "C": hashlib.sha1(f"{local_host}{hostname}{port}{username}{jump}".encode(), usedforsecurity=False).hexdigest(),
        "d": expanded("~"),
        "h": hostname,
        "i": str(os.getuid()),
        "j": jump,
        "k": config.get("hostkeyalias") or options.host,
        "n": options.host,
        "p": port,
        "r": username,
        "u": local_user,
        "L": local_host.partition(".")[0],
        "l": local_host,
    }


def _expand(text: str, tokens: dict[str, str], config: HostConfig, keyword: str) -> str:
    def token(found: re.Match[str]) -> str:
        name = found.group(1)
        if name == "%":
            return "%"
        if name not in tokens:
            where = config.places.get(keyword, "the SSH configuration")
            raise SettingsError(f"{where}: %{name} in {keyword} is not supported by transport 'asyncssh'")
        return tokens[name]

    return re.sub(r"%(.?)", token, text, flags=re.DOTALL)


def _path(text: str, tokens: dict[str, str], config: HostConfig, keyword: str) -> str:
    def variable(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in os.environ:
            raise SettingsError(f"{config.places.get(keyword, keyword)}: there is no environment variable {name}")
        return os.environ[name]

    return expanded(_expand(re.sub(r"\$\{(\w+)\}", variable, text), tokens, config, keyword))


def _number(config: HostConfig, keyword: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise SettingsError(f"{config.places[keyword]}: {keyword} is {text!r}: a number is needed")
    return int(text)


def _seconds(config: HostConfig, keyword: str) -> float | None:
    text = config.get(keyword)
    if text is None or text.lower() == "none":
        return None
    found = re.fullmatch(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.lower())
    if not found or not text:
        raise SettingsError(f"{config.places[keyword]}: {keyword} is {text!r}: a number of seconds is needed")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((weeks * 7 + days) * 24 + hours) * 3600 + minutes * 60 + seconds)
