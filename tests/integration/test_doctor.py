"""``asyncworker doctor``: what works is said, what does not is named with what to do, and the exit code tells."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.store import open_store
from tests.deploy.tools import DEPLOY
from tests.integration import doctor_app, tasks
from tests.integration.rabbitmq import amqp_app
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from tests.servers.valkey import running_valkey
from tests.servers.worker import ROOT

DOCTOR = [sys.executable, "-c", "from asyncworker.cli import main; main()", "doctor"]
NOBODY = "redis://127.0.0.1:1"


class Answer:
    """The doctor's JSON."""

    def __init__(self, code: int, output: str) -> None:
        parsed = json.loads(output)
        self.code = code
        assert parsed["ok"] == (code == 0)
        self.findings = parsed["findings"]

    def of(self, state: str, check: str | None = None) -> list[str]:
        """What was found, with the advice."""
        return [
            f"{each['text']} -> {each['advice']}"
            for each in self.findings
            if each["state"] == state and check in (None, each["check"])
        ]


Ask = Callable[..., Answer]


@pytest.fixture
def environment(worker_env: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "ASYNCWORKER_INCLUDE": tasks.__name__, **worker_env}


@pytest.fixture
def ask(environment: dict[str, str], tmp_path: Path) -> Ask:
    def ask(*arguments: str, **variables: str) -> Answer:
        done = subprocess.run(
            [*DOCTOR, "--json", *arguments],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, done.stdout)

    return ask


def test_where_all_is_well_every_check_says_so(ask: Ask, state_dir: Path) -> None:
    answer = ask()
    assert answer.code == 0
    assert not answer.of("broken") + answer.of("warning")
    text = "\n".join(answer.of("ok"))
    for said in ("celery 5.", "no gevent", "Valkey", "written and read", f"{state_dir} can be written", "sqlite 3"):
        assert said in text
    assert {each["check"] for each in answer.findings} == {
        *("versions", "process", "settings", "broker", "results", "state folder", "store", "tasks"),
        "visibility timeout",
    }


def test_plain_lines_in_a_pipe_and_a_table_on_a_terminal(environment: dict[str, str]) -> None:
    environment["ASYNCWORKER_BROKER_URL"] = NOBODY
    piped = subprocess.run(DOCTOR, env=environment, capture_output=True, text=True, check=False)
    assert piped.returncode == 1
    lines = piped.stdout.splitlines()
    assert lines[-1] == "1 broken, no warnings"
    assert all(line.split()[0] in ("ok", "warning", "broken") for line in lines[:-1])
    (line,) = [line for line in lines if line.startswith("broken")]
    assert line.startswith("broken   broker: redis://") and "127.0.0.1:1" in line
    assert "-> start it, or set ASYNCWORKER_BROKER_URL" in line
    ours, theirs = pty.openpty()
    shown = ""
    with subprocess.Popen(DOCTOR, env={**environment, "COLUMNS": "200"}, stdout=theirs) as process:
        os.close(theirs)
        while True:
            try:
                shown += os.read(ours, 65536).decode()
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 1
    assert "what to do" in shown
    assert "[Errno" in shown or "Connection refused" in shown


def test_a_redis_that_may_lose_tasks_is_warned_of_and_a_replica_is_no_broker(ask: Ask, tmp_path: Path) -> None:
    with running_valkey(tmp_path / "valkey") as server, server.connect() as connection:
        assert not ask(ASYNCWORKER_BROKER_URL=server.url()).of("warning")
        connection.config_set("appendonly", "no")
        connection.config_set("maxmemory", "1gb")
        connection.config_set("maxmemory-policy", "allkeys-lru")
        answer = ask(ASYNCWORKER_BROKER_URL=server.url())
        assert answer.code == 0
        policy, appendonly = answer.of("warning", "broker")
        assert "maxmemory-policy is allkeys-lru" in policy
        assert "CONFIG SET appendonly yes" in appendonly
        connection.replicaof("127.0.0.1", "1")
        assert "is a replica" in ask(ASYNCWORKER_BROKER_URL=server.url()).of("broken", "broker")[0]


def test_servers_that_are_not_there_or_say_nothing(ask: Ask) -> None:
    answer = ask(ASYNCWORKER_BROKER_URL="redis://:secret@127.0.0.1:1", ASYNCWORKER_RESULT_URL=NOBODY)
    assert answer.code == 1
    assert "does not answer" in answer.of("broken", "broker")[0]
    assert "does not work" in answer.of("broken", "results")[0]
    assert "secret" not in str(answer.findings)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        answer = ask("--timeout", "1", ASYNCWORKER_BROKER_URL=url)
    assert "no answer within 1 s" in answer.of("broken", "broker")[0]
    assert answer.of("ok", "store")


def test_brokers_that_are_none(ask: Ask) -> None:
    assert "reaches no other machine" in ask(ASYNCWORKER_BROKER_URL="memory://").of("broken", "broker")[0]
    assert "No such transport" in ask(ASYNCWORKER_BROKER_URL="foo://x").of("broken", "broker")[0]


def test_rabbitmq_and_no_results(ask: Ask, rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.broker_url(rabbitmq.add_vhost())
    answer = ask(ASYNCWORKER_BROKER_URL=url, ASYNCWORKER_RESULT_URL="")
    assert answer.code == 0
    assert "RabbitMQ" in answer.of("ok", "broker")[0]
    assert "none are kept" in answer.of("warning", "results")[0]
    assert "guest:guest" not in str(answer.findings)
    assert not answer.of("ok", "visibility timeout")
    refused = ask(ASYNCWORKER_BROKER_URL=url.replace("guest:guest", "guest:wrong"), ASYNCWORKER_RESULT_URL="rpc://")
    assert "does not answer" in refused.of("broken", "broker")[0]


def quorum(ask: Ask, url: str, limit: int, **variables: str) -> Answer:
    """Ask for an app with a quorum queue."""
    return ask(
        *("-A", f"{amqp_app.__name__}:app"),
        ASYNCWORKER_BROKER_URL=url,
        AMQP_QUORUM="1",
        AMQP_DELIVERY_LIMIT=str(limit) if limit else "",
        **variables,
    )


def test_delivery_limits_that_queues_declare_are_named(ask: Ask, rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.broker_url(rabbitmq.add_vhost())
    for limit in (3, 10):
        answer = quorum(ask, url, limit)
        (said,) = answer.of("warning", "broker limits")
        assert f"delivered again {limit} times at most, which is not more than max_deliveries (10)" in said
        assert "policies are not read" in answer.of("ok", "broker limits")[0]
    assert not quorum(ask, url, 11).of("warning", "broker limits")
    assert not quorum(ask, url, 3, ASYNCWORKER_MAX_DELIVERIES="2").of("warning", "broker limits")
    assert quorum(ask, url, 3, ASYNCWORKER_MAX_DELIVERIES="0").of("warning", "broker limits")
    assert any("no delivery limit is known" in said for said in quorum(ask, url, 0).of("ok", "broker limits"))
    (said,) = ask(ASYNCWORKER_BROKER_URL=url, ASYNCWORKER_INCLUDE=doctor_app.__name__).of("ok", "broker")
    assert "RabbitMQ" in said


def test_a_time_limit_that_outlasts_rabbitmqs_patience_is_named(ask: Ask, rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.broker_url(rabbitmq.add_vhost())
    short, long = (
        ask("-A", doctor_app.__name__, ASYNCWORKER_INCLUDE="", ASYNCWORKER_BROKER_URL=url, DOCTOR_LIMIT_S=limit)
        for limit in ("61", "1801")
    )
    assert not short.of("warning", "broker limits")
    assert any("consumer_timeout of rabbitmq.conf cannot be read" in said for said in short.of("ok", "broker limits"))
    (said,) = long.of("warning", "broker limits")
    assert "with its default of 1800 s" in said and ": slow -> set consumer_timeout" in said


def test_limits_that_policies_set_are_read_where_the_management_answers(ask: Ask, tmp_path: Path) -> None:
    port = free_port()
    conf = f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
    with running_rabbitmq(tmp_path / "rabbitmq", conf=conf, plugins="rabbitmq_management") as server:
        vhost = server.add_vhost()
        url, management = server.broker_url(vhost), f"http://127.0.0.1:{port}"
        queue = Queue("celery", queue_arguments={"x-queue-type": "quorum"})
        with Connection(url) as connection, connection.channel() as channel:
            queue(channel).declare()
        server.ctl("set_policy", "-p", vhost, "low", ".*", '{"delivery-limit": 4}')
        args = ("-A", f"{amqp_app.__name__}:app", "--management-url", management)
        env = {"ASYNCWORKER_BROKER_URL": url, "AMQP_QUORUM": "1"}

        def ask_until(status: str, words: str) -> Answer:
            """The management API tells of a policy some seconds after it was set."""
            give_up_at_s = time.monotonic() + 120
            while words not in str((answer := ask(*args, **env)).of(status, "broker limits")):
                assert time.monotonic() < give_up_at_s, answer.findings
                time.sleep(0.2)
            return answer

        answer = ask_until("warning", "delivered again 4 times at most")
        assert not any("policies are not read" in said for said in answer.of("ok", "broker limits"))
        server.run_script(DEPLOY / "rabbitmq" / "policy.sh", vhost)
        server.ctl("clear_policy", "-p", vhost, "low")
        answer = ask_until("ok", "delivered again 1000 times at most")
        assert not answer.of("warning", "broker limits")
        refused = ask(*args[:3], management.replace("//", "//guest:wrong@"), **env)
        assert "wrong" not in str(refused.findings)
        assert any("does not answer: HTTP Error 401" in said for said in refused.of("ok", "broker limits"))


def test_postgresql_as_the_store(ask: Ask, postgres: Postgres) -> None:
    url = postgres.url(postgres.add_database())
    assert "postgresql 1" in ask(ASYNCWORKER_STORE_URL=url).of("ok", "store")[0]
    missing = ask(ASYNCWORKER_STORE_URL=postgres.url("missing"))
    assert "missing" in missing.of("broken", "store")[0]


def test_a_store_of_another_version_and_a_folder_that_cannot_be(ask: Ask, state_dir: Path, tmp_path: Path) -> None:
    async def make() -> None:
        await (await open_store(f"sqlite+aiosqlite:///{state_dir / 'store.sqlite'}")).close()

    asyncio.run(make())
    with sqlite3.connect(state_dir / "store.sqlite") as database:
        database.execute("UPDATE asyncworker_version SET version = 99")
    database.close()
    assert "its tables are of version 99" in ask().of("broken", "store")[0]
    (tmp_path / "file").touch()
    answer = ask(ASYNCWORKER_STATE_DIR=str(tmp_path / "file" / "state"))
    assert "Not a directory" in answer.of("broken", "state folder")[0]
    assert answer.of("broken", "store")


@pytest.mark.parametrize(
    ("variables", "arguments", "check", "said"),
    [
        ({"ASYNCWORKER_SYNC_THREADS": "lots"}, [], "settings", "ASYNCWORKER_SYNC_THREADS is 'lots'"),
        ({"ASYNCWORKER_INCLUDE": "nowhere"}, [], "settings", "no module 'nowhere'"),
        ({}, ["-A", "nowhere"], "settings", "no Celery app 'nowhere'"),
        ({}, ["-A", f"{doctor_app.__name__}:plain"], "settings", "run no async tasks"),
        ({"ASYNCWORKER_INCLUDE": "tests.integration.broken_tasks"}, [], "tasks", "tests.integration.broken_tasks"),
        ({"USE_FAST_LOCALS": "1"}, [], "process", "USE_FAST_LOCALS is set"),
    ],
)
def test_what_is_wrong_here(
    ask: Ask, variables: dict[str, str], arguments: list[str], check: str, said: str, state_dir: Path
) -> None:
    answer = ask(*arguments, **variables)
    assert answer.code == 1
    assert said in answer.of("broken", check)[0]


def test_packages_of_the_wrong_version(ask: Ask, tmp_path: Path) -> None:
    metadata = tmp_path / "asyncworker-0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: asyncworker\nVersion: 0\nRequires-Dist: celery>=99\nRequires-Dist: click\n"
        "Requires-Dist: nowhere>=1\nRequires-Dist: paramiko>=99 ; extra == 'bench'\n"
    )
    answer = ask(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    old, missing = answer.of("broken", "versions")
    assert old.endswith(" is installed -> pip install 'celery>=99'")
    assert missing == "nowhere is missing -> pip install 'nowhere>=1'"


def test_a_process_patched_by_gevent(environment: dict[str, Any]) -> None:
    pytest.importorskip("gevent")
    patched = "from gevent import monkey; monkey.patch_all()\nfrom asyncworker.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", patched, "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "patched by gevent" in Answer(done.returncode, done.stdout).of("broken", "process")[0]


def test_late_tasks_that_outlast_the_visibility_timeout(ask: Ask, valkey: EmbeddedServer) -> None:
    answer = ask("-A", doctor_app.__name__, ASYNCWORKER_INCLUDE="")
    assert answer.code == 0
    (said,) = answer.of("warning", "visibility timeout")
    assert said.startswith("60 s: ")
    assert ": slow -> " in said
    assert answer.of("ok", "tasks") == ["2 async, 1 on threads -> "]
    assert ask(ASYNCWORKER_INCLUDE="").of("warning", "tasks")[0].startswith("no task of your own")
