"""One frozen settings object, read once from the environment (``ASYNCWORKER_*``) and a Celery configuration.

The environment wins over the configuration, and the configuration over the defaults here. A configuration key is the
setting's name with the prefix ``asyncworker_``: ``app.conf.asyncworker_sync_threads = 8``; in capital letters, and with
the namespace of the configuration before it, as Celery's own keys (``CELERY_ASYNCWORKER_SYNC_THREADS`` in Django).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from asyncworker.errors import SettingsError
from asyncworker.redaction import redacted
from asyncworker.setting_names import ENV_PREFIX, names_in_conf, names_in_environment

__all__ = ["ENV_PREFIX", "Settings", "default_state_dir", "load_settings"]

#: Thirty years: timers, locks and dates of the system end somewhere beyond.
LONGEST_S = 1e9

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_S)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=LONGEST_S)]


def default_state_dir() -> str:
    """Return the state folder where none is set."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise SettingsError("this user has no home folder for what is kept: set ASYNCWORKER_STATE_DIR") from None
    return str(Path(base) / "asyncworker")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a worker and of clients. Times are seconds."""

    broker_url: str = ""
    """Broker; empty: ``CELERY_BROKER_URL``, else the app's own."""
    result_url: str = ""
    """Result backend; empty: ``CELERY_RESULT_BACKEND``, else the app's own, else the broker where that is Redis."""
    store_url: str = ""
    """Database of runs and checkpoints, an SQLAlchemy async URL; empty: SQLite in the state folder."""
    limits_url: str = ""
    """Redis for cluster-wide limits; empty: the broker, where that is Redis."""
    state_dir: str = msgspec.field(default_factory=default_state_dir)
    """Folder for the SQLite store, payloads beside it, and the embedded broker."""
    include: tuple[str, ...] = ()
    """Task modules that a worker imports, separated by commas."""
    concurrency: Count = 1000
    """Tasks in flight per process, unless ``--concurrency`` or ``worker_concurrency`` is given."""
    sync_threads: Count = 32
    """Threads for tasks that are not ``async def``."""
    io_threads: Count = 8
    """Threads for blocking calls inside Celery (result writes, publishing); as many again for hooks of async tasks."""
    blocked_after_s: PositiveSeconds = 1.0
    """Log a coroutine that blocks the event loop for longer than this, with its stack."""
    cancel_grace_s: Seconds = 5.0
    """Time for a cancelled coroutine to clean up before it counts as a zombie."""
    max_deliveries: Annotated[int, Meta(ge=0)] = 10
    """Dead-letter a task after this many redeliveries that never finished; 0: never."""
    drain_grace_s: Seconds = 10.0
    """Time for items in flight to finish when a worker shuts down; unfinished ones run again elsewhere."""
    lease_s: Annotated[float, Meta(ge=3, le=LONGEST_S)] = 30.0
    """Take over a fan-out or a long late-ack task whose holder has been silent for this long."""
    store_patience_s: Seconds = 30.0
    """Time that a fan-out or a task's state waits for an unreachable store; then the run stops, to be resumed."""
    payload_url: str = ""
    """Storage of long sources and large results: a folder or an fsspec URL; empty: beside an SQLite store."""
    payload_over_bytes: Annotated[int, Meta(ge=0)] = 64 << 10
    """Store a literal source, or one result, there if it is larger than this when encoded."""
    runs_keep_s: Seconds = 30 * 86400.0
    """Retention of finished runs with their results, and of long sources after their last use; 0: forever."""
    state_max_bytes: Count = 256 << 10
    """Maximum size of one task's state, keys and encoded values together."""
    state_keep_s: PositiveSeconds = 7 * 86400.0
    """Delete a task's state when no execution of the task has used it for this long."""
    drain_timeout_s: PositiveSeconds = 300.0
    """Maximum time for a worker to shut down; then its tasks are cancelled."""
    health_file: str = ""
    """File that a worker rewrites every second while it consumes and its loop responds; see `asyncworker health`."""
    env_file: str = ""
    """With --processes: file of NAME=VALUE lines for the workers' environment, read whenever one starts."""
    max_zombies: Annotated[int, Meta(ge=0)] = 0
    """Shut a worker down, to be restarted, at this many tasks that do not end after being cancelled; 0: never."""
    fast_broker: bool = True
    """Fetch messages from Redis and RabbitMQ in batches, through asyncworker's transports; off: through kombu's."""
    fast_results: bool = True
    """Store outcomes in Redis in batches, on one connection; off: one by one, as Celery does."""
    statsd: str = ""
    """statsd server for metrics, sent once a second, as ``HOST`` or ``HOST:PORT``; empty: none."""
    statsd_prefix: str = "asyncworker"
    """Prefix of each name; ``{node}`` becomes the worker's name, which keeps the gauges of several workers apart."""
    prometheus_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of the Prometheus page; with ``--processes``, this one and those after it; 0: no page."""
    prometheus_address: str = "127.0.0.1"
    """Address that the page listens on."""
    gc_threshold: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 50_000
    """New objects between two garbage collections, startup objects excluded; 0: Python's default."""
    debug: bool = False
    """Check that objects of one thread are used on that thread; violations are logged with their stack. For tests."""
    broker_wait_s: Seconds = 10.0
    """Time that a starting worker waits for an unreachable broker before it exits."""

    def __repr__(self) -> str:
        # It comes into logs, and into the local variables of an error's report.
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        shown = {name: redacted(value) if name.endswith("_url") else value for name, value in values.items()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def payload_url_or_default(self) -> str:
        """Where payloads lie; empty: nowhere, as the store serves many machines, and which folder would be theirs?"""
        if self.payload_url or not self.store_url_or_default().startswith("sqlite"):
            return self.payload_url
        return str(Path(self.state_dir).absolute() / "payloads")

    def store_url_or_default(self) -> str:
        """The store's URL; the default is a file in the state folder, which is made when the store is opened."""
        return self.store_url or f"sqlite+aiosqlite:///{Path(self.state_dir).absolute() / 'store.sqlite'}"


def load_settings(env: Mapping[str, str] | None = None, conf: Mapping[str, Any] | None = None) -> Settings:
    """Read, convert and check every setting.

    Args:
        env: The environment; ``None`` reads the process's own.
        conf: A Celery configuration, or any mapping with ``asyncworker_*`` keys.

    Raises:
        SettingsError: A misspelt name, or a value that is not allowed: names it, and what is.
    """
    fields = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    given: dict[str, Any] = {}
    if conf is not None:
        for name, key, value in names_in_conf(conf, fields):
            given[name] = _converted(key, value, fields[name])
    for name, key, value in names_in_environment(os.environ if env is None else env, fields):
        given[name] = _converted(key, value, fields[name])
    for name in ("state_dir", "health_file", "payload_url"):
        if given.get(name, "").startswith("~"):
            # No shell has seen what stands in a unit, a compose file or a configuration.
            given[name] = str(_expanded(name, given[name]))
    return Settings(**given)


def _expanded(name: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise SettingsError(f"{name} is {path!r}: {exc}") from None


def _converted(key: str, value: Any, wanted: Any) -> Any:
    if wanted == tuple[str, ...] and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if wanted is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as exc:
        shown = type(value).__name__ if key.lower().endswith("_url") else repr(value)  # of several URLs, it may be
        raise SettingsError(f"{key} is {shown}: {str(exc)[0].lower()}{str(exc)[1:]}") from None
