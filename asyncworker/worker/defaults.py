"""Our defaults for an app's configuration: below everything that the app sets, and read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import click
from celery.app.defaults import DEFAULTS as CELERY_DEFAULTS
from celery.bin.base import CLIContext
from celery.utils.collections import ConfigurationView

from asyncworker.errors import SettingsError
from asyncworker.redaction import redacted
from asyncworker.setting_names import names_in_conf
from asyncworker.settings import Settings, load_settings

__all__ = ["POOL", "AppDefaults", "hide_secrets", "is_redis", "own_value", "result_url_of", "use_urls_of_conf"]

POOL = "asyncworker.worker.pool:AsyncPool"

#: How long Redis may owe an answer before the connection counts as lost.
REDIS_ANSWER_S = 15.0

_MISSING: Any = object()


class AppDefaults(Mapping[str, Any]):
    """Defaults of one app, which follow its configuration: a setting that is changed later has an effect.

    Celery asks these before the app's own configuration object, so the app's own values are given from here.

    Args:
        app: The app.
        include: Modules with tasks beside those of the settings.
    """

    KEYS: ClassVar[Mapping[str, None]] = dict.fromkeys(
        (
            "worker_pool",
            "worker_concurrency",
            "worker_prefetch_multiplier",
            "worker_enable_prefetch_count_reduction",
            "broker_connection_retry_on_startup",
            "worker_cancel_long_running_tasks_on_connection_loss",
            "broker_url",
            "broker_read_url",
            "broker_write_url",
            "broker_transport_options",
            "redis_socket_timeout",
            "result_backend",
            "include",
        )
    )

    def __init__(self, app: Any, include: tuple[str, ...]) -> None:
        self._app = app
        self._include = include
        #: A URL with a password, by its key and what is shown in its place; see `hide_secrets`.
        self.secrets: dict[tuple[str, str], str] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self.KEYS:
            raise KeyError(key)
        own = own_value(self._app.conf, key, _MISSING)
        if own is not _MISSING:
            return own
        try:
            return self._default(key)
        except SettingsError as exc:
            context = click.get_current_context(silent=True)
            if context is None or not isinstance(context.obj, CLIContext):
                raise
            # The celery command reads the configuration while it parses its options, and would print a traceback.
            raise SystemExit(f"asyncworker: {exc}") from None

    def __iter__(self) -> Iterator[str]:
        # Celery does not know that these two may hold a password, and shows them.
        return (key for key in self.KEYS if key not in ("broker_read_url", "broker_write_url"))

    def __len__(self) -> int:
        return len(self.KEYS) - 2

    def _default(self, key: str) -> Any:
        match key:
            case "worker_pool":
                return POOL
            case "worker_prefetch_multiplier":
                # A message waits in the broker, where another worker can have it, until a slot is free.
                return 1
            case "worker_enable_prefetch_count_reduction":
                # What runs when a connection is lost is delivered again and held, so it counts as before.
                return False
            case "broker_connection_retry_on_startup":
                return True
            case "worker_cancel_long_running_tasks_on_connection_loss":
                return False
            case "redis_socket_timeout":
                return REDIS_ANSWER_S
        settings = load_settings(conf=self._app.conf)
        match key:
            case "worker_concurrency":
                return settings.concurrency
            case "include":
                return [*settings.include, *self._include]
            case "broker_url" | "broker_read_url" | "broker_write_url":
                # CELERY_BROKER_URL is of the environment, which wins over any configuration.
                return None if os.environ.get("CELERY_BROKER_URL") else settings.broker_url or None
            case "result_backend":
                # An app that has a broker of its own and no result backend wants no results.
                broker_url = settings.broker_url or os.environ.get("CELERY_BROKER_URL")
                return settings.result_url or result_url_of(broker_url) or None
        if is_redis(self._app.conf.broker_read_url):
            # kombu's own is to wait for ever: an acknowledgement on a connection that died without a word would make
            # the worker deaf.
            return {"socket_timeout": REDIS_ANSWER_S, "socket_keepalive": True}
        return dict(CELERY_DEFAULTS[key])


def own_value(conf: Any, key: str, default: Any = None) -> Any:
    """Return what the app itself has set for a key of Celery's, in any spelling; neither our defaults nor Celery's."""
    conf.finalize()
    layers: Any = [layer for layer in conf.maps[:-1] if not isinstance(layer, AppDefaults)]
    return ConfigurationView({}, layers, keys=conf._keys, prefix=conf.prefix).get(key, default)


def use_urls_of_conf(conf: Any) -> None:
    """Put broker and result backend of our settings before those of the app, where the configuration has both."""
    settings = load_settings({}, conf)
    for key, url in (("broker_url", settings.broker_url), ("result_backend", settings.result_url)):
        if url:
            prefixed = f"{conf.prefix or ''}{key}"
            conf[prefixed.upper() if (conf.prefix or "").isupper() else prefixed] = url


def hide_secrets(conf: Any) -> None:
    """Show passwords in our settings no more, as where Celery shows a configuration: ``inspect conf``, ``report``.

    Celery itself knows only the secrets in its own settings. Ours are still read from the configuration as they were.
    """
    [defaults] = [layer for layer in conf.maps if isinstance(layer, AppDefaults)]
    for _, key, value in list(names_in_conf(conf, Settings.__struct_fields__)):
        if isinstance(value, str) and (shown := redacted(value)) != value:
            defaults.secrets[key, shown] = value
            conf.changes[key] = shown


def is_redis(broker_url: Any) -> bool:
    """Return whether kombu would use its Redis transport for that URL."""
    try:
        return isinstance(broker_url, str) and urlsplit(broker_url).scheme in ("redis", "rediss", "redis+socket")
    except ValueError:  # not a URL, which is refused where it is used
        return False


def result_url_of(broker_url: Any) -> str:
    """Return the result backend on the same Redis as a broker; empty for other brokers.

    A socket's database has another name in each: ``virtual_host`` for the broker, ``db`` for the backend.
    """
    if not is_redis(broker_url) or ";" in broker_url:
        return ""
    parts = urlsplit(broker_url)
    if parts.scheme != "redis+socket":
        return str(broker_url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    query["db"] = query.pop("virtual_host", query.get("db", "0")).lstrip("/")
    # Not geturl(), which drops the empty authority that makes the path absolute.
    return f"redis+socket://{parts.path}?{urlencode(query)}"
