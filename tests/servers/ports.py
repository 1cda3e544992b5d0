"""Free ports of 127.0.0.1."""

from __future__ import annotations

import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a port that nobody listens on now; another process may still come first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
