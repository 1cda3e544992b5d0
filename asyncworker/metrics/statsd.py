"""Send what is counted to statsd, once a second, from a thread of its own.

What was counted between two sendings goes out as one sum. A host that cannot be resolved, or is gone, costs nobody but
this thread anything: sums wait in memory until it is back.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

from statsd import StatsClient

from asyncworker.counters import Labels, samples

__all__ = ["StatsdSender"]

logger = logging.getLogger(__name__)

#: Seconds between two sendings, and between two tries to resolve the host.
EVERY_S = 1.0
RESOLVE_EVERY_S = 15.0
#: Bytes of a datagram; below the payload of an Ethernet frame.
DATAGRAM_BYTES = 1400

#: What stands between the parts of a name, or has a meaning to statsd.
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]+")


class StatsdSender:
    """Sends until it is stopped.

    Args:
        host: Name or address; resolved by the sending thread.
        port: UDP port.
        prefix: Of every name.
    """

    def __init__(self, host: str, port: int, prefix: str) -> None:
        self._host = host
        self._port = port
        self._prefix = prefix
        self._client: StatsClient | None = None
        self._resolve_in_s = 0.0
        self._told = False
        self._sent: dict[tuple[str, Labels], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="asyncworker-statsd", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what is left, and end; a host that does not resolve in that time is left behind."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _main(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(EVERY_S)
            try:
                self._send()
            except Exception:
                if not self._told:
                    self._told = True
                    logger.exception("metrics could not be sent to statsd at %s:%d", self._host, self._port)
        if self._client is not None:
            self._client.close()

    def _send(self) -> None:
        client = self._client or self._connected()
        if client is None:
            return
        # One pipeline: as few datagrams as fit.
        with client.pipeline() as pipe:
            for name, kind, labels, value in samples():
                sent_name = _statsd_name(name, labels)
                if kind == "gauge":
                    pipe.gauge(sent_name, _plain(value))
                    continue
                before = self._sent.get((name, labels), 0)
                if value != before:
                    pipe.incr(sent_name, _plain(value - before))
                    self._sent[name, labels] = value

    def _connected(self) -> Any:
        self._resolve_in_s -= EVERY_S
        if self._resolve_in_s > 0:
            return None
        try:
            # Resolves the name, which may take long and fail.
            self._client = StatsClient(self._host, self._port, self._prefix, maxudpsize=DATAGRAM_BYTES)
        except OSError as exc:
            self._resolve_in_s = RESOLVE_EVERY_S
            if not self._told:
                self._told = True
                logger.warning("statsd at %s:%d cannot be reached, metrics wait: %s", self._host, self._port, exc)
        return self._client


def _statsd_name(name: str, labels: Labels) -> str:
    return ".".join([name, *(_FOREIGN.sub("_", value) for _, value in labels)])


def _plain(value: float) -> float:
    return int(value) if value == int(value) else round(value, 6)
