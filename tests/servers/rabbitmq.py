"""A real RabbitMQ: a plain process with a node name, ports, data, logs and port mapper of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from asyncworker.processes import Child
from tests.servers import MissingServer
from tests.servers.ports import free_port

__all__ = ["RabbitMQ", "running_rabbitmq"]

#: Not the commands on PATH: those are wrappers that want to be root or the user ``rabbitmq``.
_PROGRAMS = "/usr/lib/rabbitmq/bin"
_STARTED = "Server startup complete"
_START_S = 120.0


class RabbitMQ:
    """One node; it may be stopped, killed and started again over its data."""

    def __init__(self, folder: Path, conf: str = "", plugins: str = "") -> None:
        self._server = _find("rabbitmq-server")
        self._ctl = _find("rabbitmqctl")
        self._epmd_program = _find("epmd")
        self.port = free_port()
        self._folder = folder
        self._epmd_port = free_port()
        self._env = self._environment(conf, plugins)
        self._child: Child | None = None
        self._epmd: Child | None = None

    def broker_url(self, vhost: str) -> str:
        """The URL for Celery's ``broker_url``."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    def add_vhost(self) -> str:
        """Make a virtual host that holds nothing; returns its name."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        # One program start in the place of two: each costs half a second.
        self.ctl(
            "eval",
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).',
        )
        return name

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``; returns what it prints."""
        command = [self._ctl, "--quiet", "-n", self._env["RABBITMQ_NODENAME"], *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_script(self, path: Path, *arguments: str) -> None:
        """Run a script of the shell that calls ``rabbitmqctl`` for this node."""
        env = self._env | {"PATH": f"{Path(self._ctl).parent}:{os.environ['PATH']}"}
        subprocess.run(["sh", path, *arguments], env=env, check=True, timeout=180)

    def messages(self, vhost: str, queue: str = "celery") -> int:
        """How many messages a queue holds, those that are delivered and not acknowledged among them."""
        listed = self.ctl("list_queues", "-p", vhost, "name", "messages", "--no-table-headers")
        return {name: int(count) for name, count in (line.split() for line in listed.splitlines())}.get(queue, 0)

    def wait_until_settled(self, vhost: str, timeout_s: float = 120.0) -> None:
        """Wait until every message is acknowledged."""
        give_up_at_s = time.monotonic() + timeout_s
        while self.messages(vhost):
            assert time.monotonic() < give_up_at_s, "a delivery was not settled"
            time.sleep(0.2)

    def wait_until_delivered(self, vhost: str, queue: str = "celery", timeout_s: float = 120.0) -> None:
        """Wait until a message of a queue has been sent to a consumer, which may not have read it yet."""
        give_up_at_s = time.monotonic() + timeout_s
        arguments = ("list_queues", "-p", vhost, "name", "messages_unacknowledged", "--no-table-headers")
        while [queue, "0"] in [line.split() for line in self.ctl(*arguments).splitlines()]:
            assert time.monotonic() < give_up_at_s, "nothing was delivered"

    def drop_connections(self, vhost: str) -> None:
        """Close every connection to a virtual host."""
        self.ctl("close_all_connections", "--vhost", vhost, "dropped by a test")

    @contextlib.contextmanager
    def acknowledgement_timeout(self, timeout_s: float) -> Iterator[None]:
        """Close channels opened within the block that leave a delivery unacknowledged for that long."""
        names = ("consumer_timeout", "channel_tick_interval")
        usual = [self.ctl("eval", f"element(2, application:get_env(rabbit, {name})).").strip() for name in names]
        self._set_env(names, [str(int(timeout_s * 1000)), "200"])
        try:
            yield
        finally:
            self._set_env(names, usual)

    def _set_env(self, names: Sequence[str], values: Sequence[str]) -> None:
        calls = [f"application:set_env(rabbit, {n}, {v})" for n, v in zip(names, values, strict=True)]
        self.ctl("eval", f"{', '.join(calls)}.")

    def start(self) -> None:
        """Start it; returns once it takes connections."""
        if self._epmd is None:
            # Else the first node would start one as a daemon, and leave it behind.
            command = [self._epmd_program, "-address", "127.0.0.1", "-port", str(self._epmd_port)]
            self._epmd = Child(command, log=self._folder / "epmd.log", env=self._env)
        self._child = Child([self._server], log=self._folder / "rabbitmq.log", env=self._env)
        assert self._child.wait_for_log(_STARTED, _START_S), self._child.log()

    def stop(self) -> None:
        """Ask it to end; its clients are told."""
        if self._child is not None:
            self._child.stop(grace_s=30)
            self._child = None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        self._child.kill()
        self._child = None

    def close(self) -> None:
        """Stop it and its port mapper."""
        self.stop()
        if self._epmd is not None:
            self._epmd.stop()
            self._epmd = None

    def _environment(self, conf: str, plugins: str) -> dict[str, str]:
        folder = self._folder
        for name in ("home", "data", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "plugins").write_text(f"[{plugins}].\n")
        (folder / "rabbitmq.conf").write_text(f"loopback_users = none\n{conf}")
        return os.environ | {
            "HOME": str(folder / "home"),  # of the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"asyncworker{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            # The script becomes the server, in the place of waiting for it: it then dies with the session.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        }


@contextlib.contextmanager
def running_rabbitmq(folder: Path, conf: str = "", plugins: str = "") -> Iterator[RabbitMQ]:
    """Run a node until the block ends, with more lines for its rabbitmq.conf, and plugins.

    Raises:
        MissingServer: There is no RabbitMQ on this machine.
    """
    server = RabbitMQ(folder, conf, plugins)
    try:
        server.start()
        yield server
    finally:
        server.close()


def _find(program: str) -> str:
    found = shutil.which(program, path=os.pathsep.join((_PROGRAMS, os.environ.get("PATH", ""))))
    if found is None:
        raise MissingServer(f"{program} is not installed (Debian: rabbitmq-server)")
    return found
