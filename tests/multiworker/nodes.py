"""pytest-celery's containers without Docker: a local process that answers as one, and the node classes over it."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable
from typing import Any

import celery
from pytest_celery import CeleryTestContainer

from asyncworker.cli.embedded import EmbeddedServer
from tests.servers.worker import Worker

__all__ = ["LocalContainer", "LocalProcess", "LocalServer", "LocalWorkerContainer"]

#: What Docker would tell of a container that has no network of its own.
_ATTRS: dict[str, Any] = {
    "NetworkSettings": {"Networks": {}, "Ports": {}},
    "HostConfig": {"PortBindings": {}},
    "Config": {"Env": []},
}
_numbers = itertools.count(1)

#: Starts a worker under a name; it ends with the stack.
Start = Callable[[contextlib.ExitStack, str], Worker]


class LocalProcess:
    """A worker process in the place of Docker's container: what pytest-celery asks of one."""

    attrs = _ATTRS

    def __init__(self, start: Start) -> None:
        self.id = f"{next(_numbers)}"
        self.name = f"local@{self.id}"
        self._start = start
        self._stack = contextlib.ExitStack()
        self.worker = start(self._stack, self.name)

    @property
    def status(self) -> str:
        """``running`` or ``exited``."""
        return "running" if self.worker.returncode is None else "exited"

    def reload(self) -> None:
        """Nothing is kept that could be out of date."""

    def logs(self) -> bytes:
        """What the process has logged since it was started last."""
        return self.worker.log().encode()

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal and wait for the end."""
        self.worker.signal(_signal(signal))
        self.worker.wait(120)

    def restart(self, timeout: float = 120) -> None:
        """End it with SIGTERM, where it runs, and start another in its place."""
        if self.status == "running":
            self.worker.stop(timeout)
        self._stack.close()
        self.worker = self._start(self._stack, self.name)

    def remove(self) -> None:
        """End it for good."""
        self._stack.close()


class LocalServer:
    """A server that somebody else starts and stops."""

    attrs = _ATTRS
    status = "running"

    def __init__(self, name: str) -> None:
        self.id = self.name = name

    def reload(self) -> None:
        """Nothing is kept that could be out of date."""

    def logs(self) -> bytes:
        """It keeps none for us."""
        return b""


class LocalContainer(CeleryTestContainer):  # type: ignore[misc]
    """A node's container around a local server, with its URL."""

    def __init__(self, server: EmbeddedServer, url: str) -> None:
        super().__init__(LocalServer("valkey"))
        self.server = server
        self._url = url

    @property
    def celeryconfig(self) -> dict[str, str]:
        """The URL, which is the same for all."""
        return {"url": self._url, "host_url": self._url}


class LocalWorkerContainer(CeleryTestContainer):  # type: ignore[misc]
    """A node's container around a worker process."""

    ready_prompt = " ready."

    def __init__(self, process: LocalProcess) -> None:
        super().__init__(process)
        self.process = process

    def teardown(self) -> None:
        """End the process."""
        self.process.remove()

    @classmethod
    def version(cls) -> str:
        """Celery's version."""
        return str(celery.__version__)

    @classmethod
    def worker_name(cls) -> str:
        """What stands before the ``@`` of a node's name."""
        return "local"

    @classmethod
    def worker_queue(cls) -> str:
        """The queue that it takes from."""
        return "celery"

    @classmethod
    def log_level(cls) -> str:
        """How much it logs."""
        return "INFO"


def _signal(given: str | int | None) -> signal.Signals:
    if isinstance(given, str):
        return signal.Signals[given]
    return signal.Signals(given or signal.SIGKILL)
