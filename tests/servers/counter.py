"""A TCP relay on a thread that counts what comes back from the server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

__all__ = ["Counter", "running_counter"]


class Counter:
    """Its port, and the bytes from the server so far."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes = 0

    def serve(self, target_port: int) -> None:
        """Relay until it is stopped."""
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", target_port))
                for source, goal, counts in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._relay, args=(source, goal, counts), daemon=True).start()

    def stop(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _relay(self, source: socket.socket, goal: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counts:
                    self.bytes += len(data)
                goal.sendall(data)
            goal.shutdown(socket.SHUT_WR)
        if counts:
            source.close()
            goal.close()


@contextlib.contextmanager
def running_counter(target_port: int) -> Iterator[Counter]:
    """Run a relay before a port of 127.0.0.1 until the block ends."""
    counter = Counter()
    thread = threading.Thread(target=counter.serve, args=(target_port,), daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        counter.stop()
        thread.join(120)
