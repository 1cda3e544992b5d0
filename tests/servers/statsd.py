"""A statsd that adds up what it is sent, on a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

__all__ = ["Statsd", "running_statsd"]


class Statsd:
    """Counters are summed, of gauges the last value is kept."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.counters: defaultdict[str, float] = defaultdict(float)
        self.gauges: dict[str, float] = {}
        self.datagrams = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((address, port))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="statsd", daemon=True)
        self._thread.start()

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 120.0) -> None:
        """Wait until it has been sent something."""
        give_up_at_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_at_s, (dict(self.counters), self.gauges)
            time.sleep(0.02)

    def stop(self) -> None:
        """Close the port."""
        self._stop.set()
        self._thread.join(120)
        self._socket.close()

    def _main(self) -> None:
        while not self._stop.is_set():
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            self.datagrams += 1
            for line in data.decode().splitlines():
                name, _, rest = line.partition(":")
                value, _, kind = rest.partition("|")
                if kind == "c":
                    self.counters[name] += float(value)
                else:
                    assert kind == "g", line
                    self.gauges[name] = float(value)


@contextlib.contextmanager
def running_statsd(address: str = "127.0.0.1", port: int = 0) -> Iterator[Statsd]:
    """Listen until the block ends, on a free port unless one is given."""
    server = Statsd(address, port)
    try:
        yield server
    finally:
        server.stop()
