"""Find the settings in an environment and in a Celery configuration; tell a typo from what others have put there."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asyncworker.errors import SettingsError

__all__ = ["CONF_PREFIX", "ENV_PREFIX", "names_in_conf", "names_in_environment"]

logger = logging.getLogger(__name__)

ENV_PREFIX = "ASYNCWORKER_"
CONF_PREFIX = "asyncworker_"

#: Names with our prefix that are read elsewhere: the demo, the embedded server, `asyncworker sftp`, the tests.
OTHER_READERS = frozenset(
    {
        "demo_pause_s",
        "redis_server",
        "sftp_passphrase",
        "sftp_password",
        "ssh_passphrase",
        "ssh_password",
        "tests_fast",
        "tests_require_servers",
    }
)

#: What Kubernetes, and Docker's links, put into every container beside a Service named asyncworker or asyncworker-*.
_SERVICE_LINK = re.compile(
    r"(?:.*_)?(?:service_host|service_port(?:_\w+)?|port_\d+_(?:tcp|udp|sctp)(?:_(?:proto|port|addr))?)"
)
#: The value of their ``*_PORT``, which may have the very name of a setting.
_SERVICE_PORT = re.compile(r"(?:tcp|udp|sctp)://")

#: Ratio of difflib from which an unknown name in the environment counts as a misspelt one.
_NEAR = 0.8

#: Unknown names that were reported by this process.
_reported: set[str] = set()


def names_in_environment(env: Mapping[str, str], known: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield name, variable and value of each setting in an environment.

    Raises:
        SettingsError: A variable is a misspelt setting; names the setting.
    """
    known = {*known}
    for key, value in env.items():
        # Empty is not set: compose files and charts pass on variables that may be missing.
        if not key.startswith(ENV_PREFIX) or not value:
            _report_other_prefix(key, key.lower(), ENV_PREFIX, known)
            continue
        name = key[len(ENV_PREFIX) :].lower()
        if name in OTHER_READERS or _is_service_link(name, value):
            continue
        if name in known:
            yield name, key, value
        elif nearest := _nearest(name, known | OTHER_READERS, _NEAR):
            raise SettingsError(f"{key}: no such setting; did you mean {ENV_PREFIX}{nearest.upper()}?")
        elif key not in _reported:
            # Not ours to refuse: a deployment may have variables of its own under the service's name.
            _reported.add(key)
            logger.warning("%s: no such setting; ignored", key)


def names_in_conf(conf: Mapping[str, Any], known: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield name, key and value of each setting in a Celery configuration, or any mapping; what wins comes last.

    A key may be in small or capital letters, and have the namespace of the configuration before it or not.

    Raises:
        SettingsError: A key with our prefix is no setting; names the nearest one.
    """
    known = {*known}
    if finalize := getattr(conf, "finalize", None):
        finalize()  # Celery reads its sources when a first key is asked for
    namespace = str(getattr(conf, "prefix", None) or "").lower()
    # Celery's own defaults, the last, have no key of ours, but the largest number of keys.
    layers = [*getattr(conf, "maps", [conf, {}])[:-1]]
    # By key and what is shown there in its place.
    secrets: dict[tuple[str, str], str] = {}
    for layer in layers:
        secrets |= getattr(layer, "secrets", {})
    for layer in reversed(layers):
        for key in (key for key in layer.keys() if isinstance(key, str)):  # noqa: SIM118
            _report_other_prefix(key, key.lower().removeprefix(namespace), CONF_PREFIX, known)
        for key in sorted(_keys(layer, namespace), key=lambda key: key.lower().startswith(namespace)):
            lowered = key.lower()
            # The namespace first: it may be our own prefix.
            inner = lowered.removeprefix(namespace)
            name = (inner if inner.startswith(CONF_PREFIX) else lowered).removeprefix(CONF_PREFIX)
            value = layer[key]
            if isinstance(value, str):
                value = secrets.get((key, value), value)
            if name in known:
                yield name, key, value
            elif not _is_code(value) and not (namespace == CONF_PREFIX and inner in conf.maps[-1]):  # type: ignore[attr-defined]
                raise SettingsError(_refusal(key, name, known))


def _keys(layer: Mapping[str, Any], namespace: str) -> Iterator[str]:
    for key in layer.keys():  # noqa: SIM118  (Celery's views of modules and objects are no iterables)
        if not isinstance(key, str):
            continue
        lowered = key.lower()
        if lowered.startswith(CONF_PREFIX) or lowered.removeprefix(namespace).startswith(CONF_PREFIX):
            yield key


def _report_other_prefix(key: str, name: str, prefix: str, known: Iterable[str]) -> None:
    """Log, once, a name that is a setting's but for its prefix. It may be another program's: it is not refused."""
    if not name.startswith("as") or "work" not in name or name.startswith(CONF_PREFIX) or key in _reported:
        return
    for setting in known:
        head = name.removesuffix(f"_{setting}")
        if head != name and difflib.SequenceMatcher(None, f"{head}_", CONF_PREFIX).ratio() >= _NEAR:
            _reported.add(key)
            meant = f"{prefix}{setting.upper() if prefix == ENV_PREFIX else setting}"
            logger.warning("%s: ignored; the setting's name is %s", key, meant)


def _is_code(value: Any) -> bool:
    """Return whether a name of a configuration module is an import or a definition, not a setting."""
    return inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value)


def _refusal(key: str, name: str, known: Iterable[str]) -> str:
    nearest = _nearest(name, known, 0.5)
    if not nearest:
        return f"{key}: no such setting; known: {', '.join(sorted(known))}"
    before = key[: len(key) - len(name)]
    return f"{key}: no such setting; did you mean {before}{nearest.upper() if key.isupper() else nearest}?"


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    if found := difflib.get_close_matches(name, known, n=1, cutoff=cutoff):
        return found[0]
    longer = [other for other in known if other.startswith(f"{name}_") or name.startswith(f"{other}_")]
    return min(longer, default=None)


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return (name == "port" or name.endswith("_port")) and _SERVICE_PORT.match(value) is not None
