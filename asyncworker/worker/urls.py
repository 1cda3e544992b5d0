"""Prove the URLs of a worker that starts. Nothing connects: what is away is waited for, what cannot be is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from celery.app import backends
from celery.exceptions import ImproperlyConfigured

from asyncworker.errors import SettingsError
from asyncworker.redaction import redacted
from asyncworker.settings import Settings
from asyncworker.store.payloads import check_payload_url

__all__ = ["check_urls"]

#: Of a Redis, in redis-py's spelling and in kombu's.
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+socket", "socket")


def check_urls(app: Any, settings: Settings) -> None:
    """Refuse what no worker could ever use.

    Raises:
        SettingsError: Names the setting, without the secrets of its URL.
    """
    _check_results(app)
    if settings.store_url:
        _check_store(settings.store_url)
    if settings.payload_url:
        check_payload_url(settings.payload_url)
    scheme = urlsplit(settings.limits_url).scheme
    if settings.limits_url and scheme not in REDIS_SCHEMES:
        raise SettingsError(
            f"limits_url is {redacted(settings.limits_url)!r}: cluster-wide limits are kept on Redis; expected "
            "redis://HOST:PORT/DB"
        )


def _check_results(app: Any) -> None:
    url = app.backend_cls or app.conf.result_backend  # as Celery chooses
    if not isinstance(url, str):
        return
    try:
        backends.by_url(url, loader=app.loader)
        if urlsplit(url).scheme in ("redis", "rediss") and url != app.conf.broker_url:  # that is told of the broker
            urlsplit(url).port  # noqa: B018 - raises what it is not
    except (ImportError, ImproperlyConfigured, AttributeError, ValueError) as exc:
        reason = "" if isinstance(exc, ValueError) else f": {exc}"
        raise SettingsError(f"result_backend is {redacted(str(url))!r}: not one that Celery knows{reason}") from None


def _check_store(url: str) -> None:
    # Imported where the store is not the default one, which needs no proof: it takes half a second.
    from sqlalchemy.exc import SQLAlchemyError

    from asyncworker.store.opening import parsed_url

    parsed = parsed_url(url)
    try:
        is_async = parsed.get_dialect().is_async
        parsed.get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError) as exc:
        raise SettingsError(f"store_url is {redacted(url)!r}: {type(exc).__name__}: {exc}") from None
    if not is_async:
        raise SettingsError(
            f"store_url is {redacted(url)!r}: its driver is not async; expected sqlite+aiosqlite:///PATH or "
            "postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE"
        )
