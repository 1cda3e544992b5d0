"""Show what is counted to Prometheus, over HTTP, whenever it asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from asyncworker.counters import samples
from asyncworker.metrics.names import full_names

__all__ = ["PrometheusPage", "Scrape", "WaitingPage"]

logger = logging.getLogger(__name__)


class Scrape:
    """Prometheus page: names with underscores, labels as labels, counters with ``_total``."""

    def collect(self) -> Iterator[Any]:
        """Yield a family for each metric that has a value."""
        known = full_names()
        families: dict[str, Any] = {}
        for name, kind, labels, value in samples():
            family = families.get(name)
            if family is None:
                metric = known.get(name)
                meaning = f"{metric.unit}: {metric.meaning}" if metric is not None else name
                make = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
                shown = "asyncworker_" + name.replace(".", "_")
                family = families[name] = make(shown, meaning, labels=[label for label, _ in labels])
            family.add_metric([label for _, label in labels], value)
        yield from families.values()


class PrometheusPage:
    """The page ``/metrics`` on a port, on threads of its own.

    Args:
        port: TCP port.
        address: Where to listen.

    Raises:
        OSError: The port is taken.
    """

    is_page = True

    def __init__(self, port: int, address: str) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Scrape())
        self._server, self._thread = start_http_server(port, addr=address, registry=registry)

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Close the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


class WaitingPage:
    """Opens the page as soon as its port is free: the worker that this one replaces may have it still.

    Args:
        port: TCP port.
        address: Where to listen.
    """

    is_page = True
    RETRY_S = 1.0

    def __init__(self, port: int, address: str) -> None:
        self._port, self._address = port, address
        self._page: PrometheusPage | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._open, name="asyncworker-page", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        while self._page is None and not self._stopped.wait(self.RETRY_S):
            try:
                self._page = PrometheusPage(self._port, self._address)
            except OSError:
                continue
            logger.info("the page for Prometheus on %s:%d is open", self._address, self._port)

    def stop(self) -> None:
        """Wait no longer; close the page."""
        self._stopped.set()
        self._thread.join()
        if self._page is not None:
            self._page.stop()
