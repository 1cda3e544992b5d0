"""What every test has: a detector of blocked loops, real servers, and a check that no process is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import redis
from blockbuster import blockbuster_ctx
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer, find_server
from asyncworker.errors import EmbeddedServerError
from asyncworker.loop.debug import set_debug, violations
from tests.servers import MissingServer
from tests.servers.client import client_app
from tests.servers.postgres import Postgres, running_postgres
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from tests.servers.worker import FAST_SETTINGS, Worker, running_worker

pytest_plugins = ["tests.promises.recording"]

REQUIRE_SERVERS = "ASYNCWORKER_TESTS_REQUIRE_SERVERS"

#: ``1`` or ``0``: the workers of the tests have our transport and result backend on Redis, or Celery's own.
FAST = "ASYNCWORKER_TESTS_FAST"

#: In the environment of every process that a test starts, however it is detached; the same in all of xdist's workers.
SESSION_VARIABLE = "AW_TEST_SESSION"

#: Where the loop is blocked for a moment, knowingly: (end of the file's name, functions).
ON_PURPOSE: list[tuple[str, set[str]]] = [
    # Celery makes a result backend once a thread, the loop's among them.
    ("celery/app/base.py", {"_get_backend"}),
    # redis looks up its own version, to tell the server, whenever it makes a connection.
    ("redis/utils.py", {"get_lib_version"}),
    # asyncpg looks for a password file and certificates in the home folder, whenever it connects.
    ("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"}),
    # A small file is written by the loop's own thread: another one would cost more than the writing.
    ("sftp/localfile.py", {"__init__", "write", "commit", "discard", "remove", "close"}),
    # asyncio starts a process on the loop's own thread; the file with the pinned key of a host goes with it.
    ("sftp/openssh.py", {"_start", "_remove"}),
    # The folders on the way to it are opened, and made, as it comes.
    ("sftp/folders.py", {"folder", "close"}),
    # Histories in virtual time have no threads, and look at the disk between two steps.
    ("histories/clockwork.py", {"submit"}),
    ("histories/fetching.py", {"_changed", "_check_end", "_calm"}),
]

#: How long a process that was just ended may take to be gone.
LEFT_AFTER_S = 15.0


# -- the loop ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def blocked_loop_detector() -> Iterator[None]:
    """Fail a call of ours that blocks a running loop: a sleep, a file, a socket, a database."""
    with blockbuster_ctx("asyncworker") as detector:
        for name, function in detector.functions.items():
            # Another thread holds a lock for microseconds, now and then: no fault, and not the same in every run.
            if name.startswith("threading.Lock"):
                function.deactivate()
            for file, functions in ON_PURPOSE:
                function.can_block_in(file, functions)
        yield


@pytest.fixture(autouse=True)
def only_its_own_thread() -> Iterator[None]:
    """Fail a test in which an object of the event loop was used off its thread; workers are asked at their end."""
    violations.clear()
    yield
    assert not violations


# -- servers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def missing_server_skips() -> Iterator[None]:
    """A server program that is not installed skips the test; where all are required, it fails it."""
    try:
        yield
    except MissingServer as exc:
        if os.environ.get(REQUIRE_SERVERS) == "1":
            pytest.fail(f"{exc} ({REQUIRE_SERVERS}=1)", pytrace=False)
        pytest.skip(str(exc))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with missing_server_skips():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with missing_server_skips():
        return (yield)


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    try:
        find_server()
    except EmbeddedServerError as exc:
        raise MissingServer(str(exc)) from exc
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(_valkey: EmbeddedServer) -> EmbeddedServer:
    """A Valkey that holds nothing: ``broker_url``, ``result_url``, ``redis_url``."""
    with redis.Redis.from_url(_valkey.redis_url) as client:
        client.flushall()
    return _valkey


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ for the session; each test takes a virtual host of its own."""
    with running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for the session; each test takes a database of its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def client(valkey: EmbeddedServer, state_dir: Path) -> Iterator[Celery[Any]]:
    """A client's app, with asyncworker installed, on the test's broker and store."""
    with client_app(valkey, asyncworker_state_dir=str(state_dir)) as app:
        yield app


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """The state folder of the worker and its clients."""
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def worker_env(valkey: EmbeddedServer, state_dir: Path) -> dict[str, str]:
    """The settings with which a worker, or a client process, talks to the test's broker."""
    return {
        "ASYNCWORKER_BROKER_URL": valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(state_dir),
    }


@pytest.fixture
def worker(worker_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers: ``worker("tests.integration.tasks", "-c", "10", env={...}, name="one@test", app="pkg.app")``.

    The first argument is a module with tasks, or ``None``; what follows is added to the command line. Returns once the
    worker is ready; all are stopped after the test.
    """
    with contextlib.ExitStack() as stack:

        def start(include: str | None, *arguments: str, env: dict[str, str] | None = None, **options: object) -> Worker:
            variables = worker_env | ({"ASYNCWORKER_INCLUDE": include} if include else {}) | (env or {})
            return stack.enter_context(running_worker(tmp_path, *arguments, env=variables, **options))  # type: ignore[arg-type]

        yield start


# -- nothing is left -----------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "chaos runs")
    group.addoption("--chaos-seed", type=int, default=1, help="What happens when.")
    group.addoption("--interleavings", type=int, default=10, help="Random schedules of each scenario.")
    group.addoption(
        "--interleavings-every", type=int, default=300, help="Run each n-th schedule of two deviations; 1: all."
    )
    group.addoption("--sftp-histories", type=int, default=150, help="Random histories of a file on an SFTP server.")
    group.addoption("--chaos-tasks", type=int, default=300, help="How many tasks a chaos run has.")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # As one under nohup does the end of its terminal.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # How long an example takes is the machine's affair.
    hypothesis.settings.register_profile("asyncworker", deadline=None)
    hypothesis.settings.load_profile("asyncworker")
    set_debug(True)
    # A setting in the developer's shell must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith(("ASYNCWORKER_", "CELERY_"))]:
        if name not in (REQUIRE_SERVERS, FAST, "ASYNCWORKER_REDIS_SERVER"):
            del os.environ[name]
    if not _is_xdist_worker(config):
        # The developer's own store is none of the tests' business.
        state = tempfile.TemporaryDirectory(prefix="asyncworker-tests-")
        config.add_cleanup(state.cleanup)
        os.environ["XDG_STATE_HOME"] = state.name
    if FAST in os.environ:
        os.environ.update(dict.fromkeys(FAST_SETTINGS, os.environ[FAST]))
    if not _is_xdist_worker(config):
        os.environ[SESSION_VARIABLE] = uuid.uuid4().hex


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    result = yield
    if _is_xdist_worker(session.config):
        return result  # others are at work still; the one that started them all looks in the end
    left = left_processes()
    if left:
        _gone, left = psutil.wait_procs(left, timeout=LEFT_AFTER_S)
    if left:
        for process in left:
            with contextlib.suppress(psutil.Error):
                print(f"\nleft behind by a test: process {process.pid}: {' '.join(process.cmdline())}")
                process.kill()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def left_processes() -> list[psutil.Process]:
    """Return the processes that the tests of this session have started and that still run."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(SESSION_VARIABLE) == os.environ[SESSION_VARIABLE]
            ours = ours and process.pid != os.getpid()
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left
