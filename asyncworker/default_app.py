"""The default app, and what makes any Celery app's worker an async one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from celery import Celery, signals
from celery.utils.dispatch import Signal
from celery.utils.imports import cwd_in_path, symbol_by_name
from kombu.exceptions import OperationalError
from kombu.utils.compat import detect_environment

from asyncworker.errors import AsyncWorkerError, SettingsError
from asyncworker.iterate import mark_records
from asyncworker.metrics import check_metrics, start_metrics, stop_metrics
from asyncworker.settings import Settings, load_settings
from asyncworker.tasks.task import AsyncTask
from asyncworker.tasks.task_result import use_results
from asyncworker.worker.fast import use_consumer, use_fast_broker
from asyncworker.worker.options import add_options, supervise
from asyncworker.worker.stacks import check_locals

__all__ = ["get_app", "install"]

_App = TypeVar("_App", bound="Celery[Any]")

POOL = "asyncworker.worker.pool:AsyncPool"

#: How long Redis may owe an answer before the connection counts as lost.
REDIS_ANSWER_S = 15.0

_app: Celery[AsyncTask] | None = None


def get_app() -> Celery[AsyncTask]:
    """Return the default app, ``asyncworker.app``; made on first use from ``ASYNCWORKER_*`` and ``CELERY_*``.

    Raises:
        SettingsError: A setting is wrong, or a module of ``ASYNCWORKER_INCLUDE`` does not exist.
    """
    global _app
    if _app is None:
        app: Celery[AsyncTask] = Celery("asyncworker", task_cls=AsyncTask, set_as_current=True)
        # Before the modules are looked for: importing a package of theirs may ask for the app.
        _app = app
        try:
            install(app)
        except BaseException:
            _app = None
            raise
    return _app


def install(app: _App, *, include: Iterable[str] = ()) -> _App:
    """Make the workers of a Celery app run ``async def`` tasks; its own configuration keeps the last word.

    Call it before tasks are declared, so that they get ``.partial()`` and ``.iterate()``; tasks that were declared
    earlier run all the same. A task with a ``base`` of its own gets them by deriving it from ``asyncworker.AsyncTask``.

    Args:
        app: The app; any broker, any result backend.
        include: More modules with tasks for the worker to import.

    Returns:
        The same app.

    Raises:
        SettingsError: A setting is wrong, a module does not exist, or the process is one where this cannot work
            (eventlet or gevent patches, ``USE_FAST_LOCALS``).
    """
    check_environment()
    settings = load_settings()
    modules = (*settings.include, *include)
    _check_modules(modules)
    if settings.broker_url:
        # Where Celery itself looks first, so that ours comes before CELERY_BROKER_URL.
        os.environ["CELERY_BROKER_URL"] = settings.broker_url
    if settings.result_url:
        os.environ["CELERY_RESULT_BACKEND"] = settings.result_url
    app.add_defaults(lambda: _defaults(settings, modules))
    _use_async_tasks(app)
    use_results(app)
    add_options(app)
    # Registers the tasks that run fan-outs with every app of the process.
    importlib.import_module("asyncworker.tasks.run_partition")
    # Makes `inspect coroutines` known to the worker, and to the command line.
    importlib.import_module("asyncworker.worker.control")
    connect: Any = functools.partial(Signal.connect, weak=False)
    connect(signals.import_modules, _import_tasks, sender=app, dispatch_uid=f"asyncworker-{id(app)}")
    connect(signals.worker_ready, _start_metrics, dispatch_uid="asyncworker-metrics")
    connect(signals.worker_shutdown, _stop_metrics, dispatch_uid="asyncworker-metrics")
    # Its sender is a host name: once for all apps.
    connect(signals.celeryd_init, _check_worker, dispatch_uid="asyncworker")
    return app


def check_environment() -> None:
    """Refuse a process in which an event loop thread cannot work.

    Raises:
        SettingsError: Names what stands in the way.
    """
    environment = detect_environment()
    if environment != "default":
        raise SettingsError(
            f"this process is patched by {environment}, whose loop cannot live beside asyncio's; "
            f"start it without {environment} (no -P {environment}, no monkey_patch())"
        )
    check_locals()


def _check_modules(modules: Iterable[str]) -> None:
    for module in modules:
        try:
            # As Celery's loader will: the celery command itself has no working directory on its path.
            with cwd_in_path():
                found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise SettingsError(
                f"no module {module!r} (ASYNCWORKER_INCLUDE or include=); it is looked for in the working "
                f"directory and on PYTHONPATH"
            )


def _defaults(settings: Settings, modules: tuple[str, ...]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "worker_pool": POOL,
        "worker_concurrency": settings.concurrency,
        # A message waits in the broker, where another worker can have it, until a slot is free.
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }
    if _is_redis(os.environ.get("CELERY_BROKER_URL", "")):
        # kombu's own is to wait for ever: an acknowledgement on a connection that died without a word would make the
        # worker deaf.
        defaults["broker_transport_options"] = {"socket_timeout": REDIS_ANSWER_S, "socket_keepalive": True}
    defaults["redis_socket_timeout"] = REDIS_ANSWER_S
    if modules:
        defaults["include"] = list(modules)
    result_url = os.environ.get("CELERY_RESULT_BACKEND") or result_url_of(os.environ.get("CELERY_BROKER_URL", ""))
    if result_url:
        defaults["result_backend"] = result_url
    return defaults


def _is_redis(broker_url: str) -> bool:
    return urlsplit(broker_url).scheme in ("redis", "rediss", "redis+socket")


def result_url_of(broker_url: str) -> str:
    """Return the result backend on the same Redis as a broker; empty for other brokers.

    A socket's database has another name in each: ``virtual_host`` for the broker, ``db`` for the backend.
    """
    parts = urlsplit(broker_url)
    if parts.scheme in ("redis", "rediss"):
        return broker_url
    if parts.scheme != "redis+socket":
        return ""
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    query["db"] = query.pop("virtual_host", query.get("db", "0")).lstrip("/")
    # Not geturl(), which drops the empty authority that makes the path absolute.
    return f"redis+socket://{parts.path}?{urlencode(query)}"


def _use_async_tasks(app: Any) -> None:
    task_cls: type = symbol_by_name(app.task_cls)
    if not issubclass(task_cls, AsyncTask):
        app.task_cls = AsyncTask if issubclass(AsyncTask, task_cls) else type("AsyncTask", (AsyncTask, task_cls), {})
        # Celery caches the base class of the app's tasks on first use.
        app.__dict__.pop("Task", None)


def _import_tasks(sender: Celery[Any], **_: Any) -> None:
    """Import the worker's modules ourselves, so that one that fails is told in one line."""
    for module in (*sender.conf.imports, *sender.conf.include):
        try:
            sender.loader.import_task_module(module)
        except Exception as exc:
            raise SystemExit(
                f"asyncworker: cannot import {module!r}: {type(exc).__name__}: {exc}{_where(exc)}"
            ) from None


def _where(exc: BaseException) -> str:
    traceback = exc.__traceback__
    last = None
    while traceback is not None:
        if "importlib" not in traceback.tb_frame.f_code.co_filename:
            last = traceback
        traceback = traceback.tb_next
    if last is None:
        return ""
    return f" (at {last.tb_frame.f_code.co_filename}:{last.tb_lineno})"


def _start_metrics(sender: Any, **_: Any) -> None:
    start_metrics(sender, load_settings(conf=sender.app.conf))


def _stop_metrics(**_: Any) -> None:
    stop_metrics()


def _check_worker(instance: Any = None, options: Any = None, **_: Any) -> None:
    """Before a worker starts: its settings, and its broker. What cannot work ends it with one line.

    With ``--processes`` it never starts: this process becomes the supervisor, and ends with its exit code.
    """
    app = instance.app
    if app.conf.worker_pool != POOL:
        if (options or {}).get("processes"):
            raise SystemExit(f"asyncworker: --processes is for its own pool, and worker_pool is {app.conf.worker_pool}")
        return
    # Before logging is set up: its formats may name what this adds.
    mark_records()
    try:
        settings = load_settings(conf=app.conf)
        check_environment()
        check_metrics(settings)
        _check_broker(app, settings.broker_wait_s)
        code = supervise(instance, options or {}, settings)
        use_consumer(app)
        use_fast_broker(app, settings)
    except AsyncWorkerError as exc:
        raise SystemExit(f"asyncworker: {exc}") from None
    if code is not None:
        raise SystemExit(code)


def _check_broker(app: Any, wait_s: float) -> None:
    connection = app.connection_for_read()
    try:
        connection.ensure_connection(timeout=wait_s, interval_start=0.2, interval_step=0.2, interval_max=1)
    except OperationalError as exc:
        raise SettingsError(
            f"no broker answers at {connection.as_uri()} within {wait_s:g} s: {exc}. Start it, or set "
            f"ASYNCWORKER_BROKER_URL (for one that needs no server: asyncworker dev)"
        ) from None
    finally:
        connection.release()
