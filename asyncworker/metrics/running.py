"""Exporters that a worker starts for its metrics, and stops when it shuts down."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from asyncworker.counters import collect_with, read_from_now_on
from asyncworker.errors import SettingsError
from asyncworker.metrics.standing import limits_standing, pools_standing, worker_standing
from asyncworker.redaction import redacted
from asyncworker.settings import Settings

if TYPE_CHECKING:
    from asyncworker.metrics.prometheus import PrometheusPage, WaitingPage
    from asyncworker.metrics.queues import QueueLengths
    from asyncworker.metrics.statsd import StatsdSender

__all__ = ["check_metrics", "leave_page", "start_metrics", "stop_metrics"]

logger = logging.getLogger(__name__)

STATSD_PORT = 8125

_running: list[StatsdSender | QueueLengths | PrometheusPage | WaitingPage] = []


def check_metrics(settings: Settings) -> tuple[str, int]:
    """Return statsd's host and port; an empty host where there is none.

    Raises:
        SettingsError: It cannot be one.
    """
    host, colon, port = settings.statsd.rpartition(":")
    # An IPv6 address, whose colons stand before no port.
    if not colon or settings.statsd.endswith("]") or (":" in host and not host.startswith("[")):
        return settings.statsd.strip("[]"), STATSD_PORT
    if not (host and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"statsd is {redacted(settings.statsd)!r}: expected HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def start_metrics(worker: Any, settings: Settings) -> None:
    """Start what the settings ask for; once a process.

    Args:
        worker: Celery's consumer.
        settings: ``statsd``, ``statsd_prefix``, ``prometheus_port``, ``prometheus_address``.
    """
    collect_with("worker", lambda: worker_standing(worker))
    if _running or not (settings.statsd or settings.prometheus_port):
        return
    collect_with("limits", limits_standing)
    collect_with("pools", pools_standing)
    read_from_now_on()
    host, port = check_metrics(settings)
    node = str(worker.hostname)
    # Neither client is loaded by a worker that has no use for it.
    if host:
        from asyncworker.metrics.statsd import StatsdSender

        prefix = settings.statsd_prefix.replace("{node}", "".join(c if c.isalnum() else "_" for c in node))
        sender = StatsdSender(host, port, prefix)
        sender.start()
        _running.append(sender)
    # It opens a connection to the broker.
    from asyncworker.metrics.queues import QueueLengths

    lengths = QueueLengths(worker.app)
    lengths.start()
    _running.append(lengths)
    if settings.prometheus_port:
        from asyncworker.metrics.prometheus import PrometheusPage, WaitingPage

        page_port = settings.prometheus_port + _place_of(worker)
        try:
            _running.append(PrometheusPage(page_port, settings.prometheus_address))
        except OverflowError as exc:
            logger.error("no page for Prometheus on %s:%d: %s", settings.prometheus_address, page_port, exc)
        except OSError as exc:
            # A worker without a page is worth more than no worker; the one that it replaces may have the port still.
            if getattr(worker.controller, "options", {}).get("supervised") is None:
                logger.error("no page for Prometheus on %s:%d: %s", settings.prometheus_address, page_port, exc)
            else:
                logger.info("no page for Prometheus on %s:%d yet: %s", settings.prometheus_address, page_port, exc)
                _running.append(WaitingPage(page_port, settings.prometheus_address))


def stop_metrics() -> None:
    """Send what is left, and stop."""
    while _running:
        _running.pop().stop()


def leave_page() -> None:
    """Close the page, whose port a successor waits for; what is sent goes on."""
    for each in list(_running):
        if getattr(each, "is_page", False):
            _running.remove(each)
            each.stop()


def _place_of(worker: Any) -> int:
    """Return the place of a worker among those of one ``--processes``, which are called ``name-1`` to ``name-N``."""
    if getattr(worker.controller, "options", {}).get("supervised") is None:
        return 0
    return int(str(worker.hostname).partition("@")[0].rpartition("-")[2]) - 1
