"""Send what is counted to statsd, once a second, from a thread of its own.

The deltas of one second go out together. A host that cannot be resolved, refuses, or cannot be reached, holds up only
this thread: its sums wait in memory. The name is resolved again every 15 s, and at once after a refusal, so an exporter
that moves is followed.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from asyncworker.counters import Kind, Labels, Sample, samples

__all__ = ["StatsdSender"]

logger = logging.getLogger(__name__)

#: Seconds between two sendings, and between two look-ups of the host's name.
EVERY_S = 1.0
RESOLVE_EVERY_S = 15.0
#: Bytes of a datagram; below the payload of an Ethernet frame.
DATAGRAM_BYTES = 1400

#: Characters that separate the parts of a name, or have a meaning to statsd.
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]+")
#: A line has to fit into a datagram whatever the names of tasks are.
_LABEL_LENGTH = 200


class StatsdSender:
    """Sends until it is stopped.

    UDP acknowledges nothing: datagrams that are dropped on their way, or sent to a host that has gone without an ICMP
    answer, are lost. After a refusal the sums of that second are sent again, so some of them may count twice.

    Args:
        host: Name or address; resolved by the sending thread.
        port: UDP port.
        prefix: Of every name.
    """

    def __init__(self, host: str, port: int, prefix: str) -> None:
        self._host = host
        self._port = port
        self._prefix = prefix
        self._socket: socket.socket | None = None
        self._address: Any = None
        self._refused_by: Any = None
        self._resolve_at_monotonic_s = 0.0
        self._reported = False
        self._sent: dict[str, float] = {}
        #: The sums before the last sending, which a refusal brings back.
        self._sent_before: dict[str, float] = {}
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
            except OSError as exc:
                self._take_back()
                self._report(exc)
            except Exception:
                if not self._reported:
                    self._reported = True
                    logger.exception("metrics could not be sent to statsd at %s:%d", self._host, self._port)
        if self._socket is not None:
            self._socket.close()

    def _send(self) -> None:
        if self._socket is not None and (error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            # The answer to the last sending: nobody listens there.
            self._take_back()
            self._report(OSError(error, "nobody takes them"))
        elif self._sent is not self._sent_before:
            self._sent_before = self._sent
            self._reported = False
        connected = self._connected()
        if connected is None:
            return
        sent = dict(self._sent_before)
        # Set first: a datagram that fails takes all of them back.
        self._sent = sent
        for datagram in _datagrams(self._lines(sent)):
            connected.send(datagram)

    def _take_back(self) -> None:
        self._sent = self._sent_before
        self._refused_by, self._resolve_at_monotonic_s = self._address, 0.0

    def _report(self, exc: OSError) -> None:
        if not self._reported:
            self._reported = True
            logger.warning("statsd at %s:%d cannot be reached, metrics wait: %s", self._host, self._port, exc)

    def _lines(self, sent: dict[str, float]) -> Iterator[str]:
        """Yield a line for each gauge and each sum that has grown, and note the sums in ``sent``."""
        for (name, kind), value in _by_sent_name(samples()).items():
            if kind == "gauge":
                yield f"{self._prefix}.{name}:{_plain(value)}|g"
            elif (grown := value - sent.get(name, 0)) != 0:
                yield f"{self._prefix}.{name}:{_plain(grown)}|c"
                sent[name] = value

    def _connected(self) -> socket.socket | None:
        """Return a socket for the address that the name has now; the last one while it does not resolve."""
        now_s = time.monotonic()
        if now_s < self._resolve_at_monotonic_s:
            return self._socket
        self._resolve_at_monotonic_s = now_s + RESOLVE_EVERY_S
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as exc:
            if self._socket is None:
                self._report(exc if isinstance(exc, OSError) else OSError(str(exc)))
            return self._socket
        # An address is kept until the name loses it or it refuses.
        kept = self._socket is not None and self._address in [info[-1] for info in found]
        if not kept or self._refused_by == self._address:
            # IPv4 first, as statsd's own client; what has refused comes last.
            self._connect(*min(found, key=lambda info: (info[-1] == self._refused_by, info[0] != socket.AF_INET)))
        return self._socket

    def _connect(self, family: int, kind: int, protocol: int, _name: str, address: Any) -> None:
        # Connected: only then are refusals reported.
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.connect(address)
        except OSError:
            connecting.close()
            self._address = address  # the next one is tried first
            raise
        if self._socket is not None:
            self._socket.close()
        self._socket, self._address, self._refused_by = connecting, address, None


def _by_sent_name(found: Iterable[Sample]) -> dict[tuple[str, Kind], float]:
    """Return the values by the names that statsd gets, those of one name summed; without what it cannot take."""
    sums: dict[tuple[str, Kind], float] = {}
    for name, kind, labels, value in found:
        if math.isfinite(value):
            key = (_statsd_name(name, labels), kind)
            sums[key] = sums.get(key, 0) + value
    return sums


def _datagrams(lines: Iterable[str]) -> Iterator[bytes]:
    """Pack lines into as few datagrams as they fit into."""
    packed = b""
    for line in lines:
        encoded = line.encode()
        if packed and len(packed) + 1 + len(encoded) > DATAGRAM_BYTES:
            yield packed
            packed = b""
        packed = packed + b"\n" + encoded if packed else encoded
    if packed:
        yield packed


def _statsd_name(name: str, labels: Labels) -> str:
    # A part that is empty would be no part: "a..b" is not a name everywhere.
    return ".".join([name, *(_FOREIGN.sub("_", value)[:_LABEL_LENGTH] or "_" for _, value in labels)])


def _plain(value: float) -> float:
    return int(value) if value == int(value) else round(value, 6)
