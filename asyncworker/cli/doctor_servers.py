"""The doctor's checks of the servers: the broker, what a Redis must be to be one, the result backend."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from packaging.version import InvalidVersion, Version

from asyncworker.cli.apps import check_result_url
from asyncworker.cli.findings import Finding, broken, fine, told, warning
from asyncworker.default_app import check_broker_url
from asyncworker.errors import SettingsError
from asyncworker.redaction import redacted

__all__ = ["check_broker", "check_results"]

#: What production asks for; older ones work.
_GOOD_REDIS = Version("7")

_FULL = 0.9


def check_broker(app: Any) -> Iterator[Finding]:
    """The broker: its kind, whether it answers, its version."""
    try:
        shown = check_broker_url(app)
        connection = app.connection_for_read()
        kind = connection.transport.driver_type
    except SettingsError as exc:
        yield broken("broker", told(exc), "set ASYNCWORKER_BROKER_URL to redis://... or amqp://...")
        return
    if kind in ("memory", "filesystem"):
        yield broken(
            "broker",
            f"{shown} reaches no other machine, and no other process where it is memory",
            "set ASYNCWORKER_BROKER_URL to a Redis or a RabbitMQ (for one that needs no server: asyncworker dev)",
        )
        return
    try:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            if kind == "redis":
                info = connection.default_channel.client.info()
                yield fine("broker", f"{shown}: {_redis_name(info)} answers")
                yield from _check_redis(info)
            else:
                yield fine("broker", f"{shown}: {_amqp_name(connection) or kind} answers")
        finally:
            connection.release()
    except Exception as exc:
        yield broken(
            "broker",
            f"{shown} does not answer: {told(exc)}",
            "start it, or set ASYNCWORKER_BROKER_URL (for one that needs no server: asyncworker dev)",
        )


def _amqp_name(connection: Any) -> str:
    said = getattr(connection.connection, "server_properties", None) or {}
    return " ".join(str(said[key]) for key in ("product", "version") if said.get(key))


def _redis_name(info: Mapping[str, Any]) -> str:
    if info.get("server_name") == "valkey":
        return f"Valkey {info.get('valkey_version')}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"


def _check_redis(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Report settings that lose tasks, by INFO alone: managed servers often refuse CONFIG."""
    try:
        old = Version(str(info["redis_version"])) < _GOOD_REDIS
    except (KeyError, InvalidVersion):
        old = False
    if old:
        yield warning("broker", f"{_redis_name(info)} is old", "use Redis or Valkey 7 or later")
    if info.get("role") == "slave":
        yield broken("broker", "the server is a replica, which cannot be written", "name its primary")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(
            "broker",
            f"maxmemory-policy is {policy}: the server may throw tasks away when its memory is full",
            "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
        )
    most, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    if most and used > _FULL * most:
        yield warning("broker", f"{used >> 20} of {most >> 20} MB of memory are used", "give it more memory")
    if not info.get("aof_enabled"):
        yield warning(
            "broker",
            "appendonly is no: a crash of the server loses the tasks since its last snapshot",
            "CONFIG SET appendonly yes, and in its configuration file",
        )
    for field in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(field, "ok") != "ok":
            yield broken("broker", f"it cannot save its data: {field} is {info[field]}", "look at its log and its disk")


def check_results(app: Any) -> Iterator[Finding]:
    """The result backend: whether a result that is written can be read."""
    try:
        check_result_url(app)
    except SettingsError as exc:
        yield broken("results", told(exc), "set ASYNCWORKER_RESULT_URL to redis://..., or what Celery names otherwise")
        return
    backend = app.backend
    if isinstance(backend, DisabledBackend):
        yield warning(
            "results",
            "none are kept: .get() and chords do not work",
            "set ASYNCWORKER_RESULT_URL where they are needed",
        )
        return
    shown = redacted(backend.as_uri())
    if isinstance(backend, RPCBackend):
        yield fine("results", f"{shown}: sent to the client that asked, over the broker; no chords")
        return
    try:
        name = ""
        if isinstance(backend, RedisBackend):
            # First, because Celery tries its own writes many times over.
            name = f"{_redis_name(backend.client.info('server'))}, "
        task_id = f"asyncworker-doctor-{uuid.uuid4()}"
        backend.store_result(task_id, "written", states.SUCCESS)
        read = backend.get_task_meta(task_id, cache=False)["result"]
        backend.forget(task_id)
    except Exception as exc:
        yield broken("results", f"{shown} does not work: {told(exc)}", "start it, or set ASYNCWORKER_RESULT_URL")
        return
    if read == "written":
        yield fine("results", f"{shown}: {name}written and read")
    else:
        yield broken("results", f"{shown}: what was written is not read", "look at its configuration")
