"""The default app, and what makes any Celery app's worker an async one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import click
from amqp.exceptions import NotAllowed
from celery import Celery, signals
from celery.concurrency import get_implementation
from celery.utils.dispatch import Signal
from celery.utils.imports import cwd_in_path, symbol_by_name
from kombu.exceptions import OperationalError
from kombu.utils.compat import detect_environment

from asyncworker.errors import AsyncWorkerError, SettingsError
from asyncworker.iterate import mark_records
from asyncworker.limits import use_limits_url
from asyncworker.metrics import check_metrics, leave_page, start_metrics, stop_metrics
from asyncworker.redaction import redacted
from asyncworker.settings import load_settings
from asyncworker.tasks.task import AsyncTask
from asyncworker.tasks.task_result import use_results
from asyncworker.worker.celery_settings import check_flags, ignored_settings
from asyncworker.worker.defaults import POOL, AppDefaults, hide_secrets, own_value, use_urls_of_conf
from asyncworker.worker.fast import use_consumer, use_fast_broker
from asyncworker.worker.health import check_health_file
from asyncworker.worker.option_values import check_time_limits
from asyncworker.worker.options import add_options, supervise
from asyncworker.worker.stacks import check_locals
from asyncworker.worker.supervised import worker_retiring
from asyncworker.worker.urls import check_urls

__all__ = ["check_broker_url", "check_environment", "get_app", "install"]

logger = logging.getLogger(__name__)

_App = TypeVar("_App", bound="Celery[Any]")

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
            (eventlet or gevent patches, ``USE_FAST_LOCALS``). The ``celery`` command ends with that line instead.
    """
    include = tuple(include)
    try:
        check_environment()
        settings = load_settings()
        _check_modules((*settings.include, *include))
    except SettingsError as exc:
        context = click.get_current_context(silent=True)
        cli = sys.modules.get("celery.bin.celery")  # importing it is slow, and only the command has
        if context is None or cli is None or context.find_root().command is not cli.celery:
            raise
        # It would print a traceback of the app's module around it.
        raise SystemExit(f"asyncworker: {exc}") from None
    if settings.broker_url:
        # Where Celery itself looks first, so that ours comes before CELERY_BROKER_URL.
        os.environ["CELERY_BROKER_URL"] = settings.broker_url
    if settings.result_url:
        os.environ["CELERY_RESULT_BACKEND"] = settings.result_url
    _use_defaults(app, include)
    use_limits_url(lambda: load_settings(conf=app.conf).limits_url or str(app.conf.broker_read_url or ""))
    _use_async_tasks(app)
    use_results(app)
    add_options(app)
    # Registers the tasks that run fan-outs with every app of the process.
    importlib.import_module("asyncworker.tasks.run_partition")
    # Makes `inspect coroutines` known to the worker, and to the command line.
    importlib.import_module("asyncworker.worker.control")
    connect: Any = functools.partial(Signal.connect, weak=False)
    import_tasks = functools.partial(_import_tasks, include)
    connect(signals.import_modules, import_tasks, sender=app, dispatch_uid=f"asyncworker-{id(app)}")
    connect(signals.worker_ready, _start_metrics, dispatch_uid="asyncworker-metrics")
    connect(signals.worker_shutdown, _stop_metrics, dispatch_uid="asyncworker-metrics")
    connect(worker_retiring, _leave_page, dispatch_uid="asyncworker-metrics")
    # Its sender is a host name: once for all apps.
    connect(signals.celeryd_init, _check_worker, dispatch_uid="asyncworker")
    connect(signals.celeryd_after_setup, _tell_ignored, dispatch_uid="asyncworker-ignored")
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


def _use_defaults(app: Any, include: tuple[str, ...]) -> None:
    """Put our defaults below the app's configuration, whenever that is read, and read again from another object."""

    def configured(source: Any, **_: Any) -> None:
        if not any(isinstance(layer, AppDefaults) for layer in source.maps):
            source.add_defaults(AppDefaults(app, include))
        # What is wrong is raised where a setting is used; here Celery would only log it.
        with contextlib.suppress(SettingsError):
            use_urls_of_conf(source)
            context = click.get_current_context(silent=True)
            if context is not None and context.find_root().invoked_subcommand == "report":
                hide_secrets(source)

    app.on_after_configure.connect(configured, weak=False, dispatch_uid="asyncworker-defaults")
    if app.configured:
        configured(app.conf)


def _use_async_tasks(app: Any) -> None:
    task_cls: type = symbol_by_name(app.task_cls)
    if not issubclass(task_cls, AsyncTask):
        app.task_cls = AsyncTask if issubclass(AsyncTask, task_cls) else type("AsyncTask", (AsyncTask, task_cls), {})
        # Celery caches the base class of the app's tasks on first use.
        app.__dict__.pop("Task", None)


def _import_tasks(include: tuple[str, ...], sender: Celery[Any], **_: Any) -> None:
    """Import the worker's modules ourselves, so that one that fails is told in one line."""
    conf = sender.conf
    try:
        ours = (*load_settings(conf=conf).include, *include)
    except SettingsError as exc:
        raise SystemExit(f"asyncworker: {exc}") from None
    # An app's own include is no reason to leave out ours.
    for module in dict.fromkeys((*conf.imports, *conf.include, *ours)):
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


def _leave_page(**_: Any) -> None:
    leave_page()


def _check_worker(instance: Any = None, options: Any = None, **_: Any) -> None:
    """Before a worker starts: its settings, and its broker. What cannot work ends it with one line.

    With ``--processes`` it never starts: this process becomes the supervisor, and ends with its exit code.
    """
    app, options = instance.app, options or {}
    is_ours = _has_our_pool(app, options)
    try:
        check_flags(options, is_ours=is_ours)
    except SettingsError as exc:
        raise SystemExit(f"asyncworker: {exc}") from None
    if not is_ours:
        return
    # Before logging is set up: its formats may name what this adds.
    mark_records()
    try:
        settings = load_settings(conf=app.conf)
        use_urls_of_conf(app.conf)  # set since the configuration was read
        check_environment()
        check_time_limits(app.conf)
        check_metrics(settings)
        check_urls(app, settings)
        check_health_file(settings)
        _check_broker(app, settings.broker_wait_s)
        code = supervise(instance, options, settings)
        hide_secrets(app.conf)
        use_consumer(app)
        use_fast_broker(app, settings)
    except AsyncWorkerError as exc:
        raise SystemExit(f"asyncworker: {exc}") from None
    if code is not None:
        raise SystemExit(code)


def _has_our_pool(app: Any, options: Mapping[str, Any]) -> bool:
    chosen = get_implementation(options.get("pool_cls") or options.get("pool") or app.conf.worker_pool)
    return f"{chosen.__module__}:{chosen.__qualname__}" == POOL


def _tell_ignored(instance: Any, conf: Any, **_: Any) -> None:
    """Log, once logging is set up, which of Celery's settings have no effect in this worker."""
    if _has_our_pool(instance.app, {"pool_cls": instance.pool_cls}):
        for line in ignored_settings(conf, supervised="--supervised" in sys.argv):
            logger.warning("%s", line)


def check_broker_url(app: Any) -> str:
    """Return the broker's URL as it may be shown.

    Raises:
        SettingsError: It is none that kombu can use.
    """
    shown = redacted(str(app.conf.broker_read_url or "amqp://"))
    try:
        app.connection_for_read().transport  # noqa: B018  (made by the scheme; nothing connects)
    except (KeyError, ImportError, AttributeError, TypeError, ValueError) as exc:
        # A ValueError quotes what is taken for the port, and may be of the password.
        # A KeyError is of the scheme alone.
        reason = f": {exc.args[0]}" if isinstance(exc, ImportError | KeyError) and exc.args else ""
        raise SettingsError(
            f"broker_url is {shown!r}: not one that Celery knows{reason}; expected redis://HOST:PORT/DB or "
            f"amqp://USER:PASSWORD@HOST:PORT/VHOST"
        ) from None
    return shown


def _check_broker(app: Any, wait_s: float) -> None:
    shown = check_broker_url(app)
    if own_value(app.conf, "broker_connection_retry_on_startup"):
        return  # the app wants to wait: Celery does, and logs each try
    connection = app.connection_for_read()
    try:
        connection.ensure_connection(timeout=wait_s, interval_start=0.2, interval_step=0.2, interval_max=1)
    except (*connection.channel_errors, NotAllowed) as exc:
        raise SettingsError(f"the broker at {shown} refuses this worker: {exc}") from None
    except OperationalError as exc:
        raise SettingsError(
            f"no broker answers at {shown} within {wait_s:g} s: {str(exc).rstrip('.')}. Start it, or set "
            f"ASYNCWORKER_BROKER_URL (for one that needs no server: asyncworker dev)"
        ) from None
    finally:
        connection.release()
