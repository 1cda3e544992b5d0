"""Redis answers, and refuses to write: it is full, a replica since a moment ago, or cannot save. It is waited for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import chain, chord

from tests.chaos import outage_tasks
from tests.chaos.outage_scene import ALL, EACH, OUTAGE_S, WORK_S, Scene, Urls, running_scene
from tests.servers.valkey import RestartableValkey, running_valkey
from tests.servers.worker import running_worker

pytestmark = pytest.mark.skipif(
    os.environ.get("ASYNCWORKER_TESTS_FAST") == "0", reason="kombu's transport ends the worker, as under prefork"
)

KINDS = ["full", "replica", "cannot save"]
#: Under which a snapshot cannot be written: a folder has that name.
TAKEN = "taken"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RestartableValkey]:
    folder = tmp_path / "valkey"
    (folder / TAKEN).mkdir(parents=True)
    options = {"dbfilename": TAKEN, "save": "3600 1", "stop-writes-on-bgsave-error": "no"}
    with running_valkey(folder, options) as server:
        yield server
        with server.connect() as connection:
            connection.config_set("save", "")  # it could not end


@pytest.fixture
def scene(redis_server: RestartableValkey, tmp_path: Path) -> Iterator[Scene]:
    urls = Urls(redis_server.url(0), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as running:
        yield running


@contextlib.contextmanager
def refusing(server: RestartableValkey, kind: str) -> Iterator[None]:
    """Have it refuse to write while the block runs."""
    cannot_save = _unable_to_save(server) if kind == "cannot save" else None
    with cannot_save or server.refusing_writes(as_replica=kind == "replica") as connection:
        with pytest.raises(redis.ResponseError):
            connection.set("refused", "?")
        yield


@contextlib.contextmanager
def _unable_to_save(server: RestartableValkey) -> Iterator[redis.Redis]:
    with server.connect() as connection:
        connection.bgsave()
        while connection.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.02)
        connection.config_set("stop-writes-on-bgsave-error", "yes")
        try:
            yield connection
        finally:
            connection.config_set("stop-writes-on-bgsave-error", "no")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("redis-that-cannot-write-is-waited-for")
def test_results_and_messages_wait(scene: Scene, redis_server: RestartableValkey, kind: str) -> None:
    sent = scene.begin(*ALL)
    app = scene.app
    body = app.tasks["o.total"].s()
    header = [app.tasks["o.late"].s(n, WORK_S) for n in range(3)]
    in_chord = chord(header, body, app=app).apply_async().id
    in_chain = chain(app.tasks["o.late"].si(1, WORK_S), app.tasks["o.late"].si(2, 0), app=app).apply_async().id
    again = scene.send("o.again", count=5)["o.again"]
    scene.wait_for(lambda: len(scene.noted("begin")) >= EACH * len(ALL) + 3 + 1 + 5, "the beginning of every task")
    with refusing(redis_server, kind):
        before = scene.beats()
        scene.wait_for(lambda: scene.noted("end").total() >= EACH * len(ALL) + 3 + 1, "the end of every task")
        time.sleep(OUTAGE_S)
        scene.check_beats(before)
    scene.check(sent)
    assert scene.result(in_chord) == 3
    assert scene.result(in_chain) == 2
    assert [scene.result(task_id) for task_id in again] == list(range(5))
    assert scene.worker.log().count("is tried again") < 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("redis-that-cannot-write-is-waited-for")
def test_what_waits_in_the_queue_stays_there(scene: Scene, redis_server: RestartableValkey, kind: str) -> None:
    """More is queued than the worker may take: what it asks for meanwhile is refused, and neither lost nor doubled."""
    sent = scene.send("o.early", "o.late", seconds=0.5, count=150)
    scene.wait_for(lambda: scene.noted("begin").total() >= 100, "the first tasks")
    with refusing(redis_server, kind):
        time.sleep(2 * OUTAGE_S)
    for name, task_ids in sent.items():
        assert [scene.result(task_id) for task_id in task_ids] == list(range(150)), name
    assert set(scene.noted("begin").values()) == {1}
    with redis_server.connect() as connection:
        scene.wait_for(lambda: not connection.exists("celery", "unacked"), "an empty broker")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("redis-that-cannot-write-is-waited-for")
def test_a_task_is_put_back_when_that_is_possible(
    scene: Scene, redis_server: RestartableValkey, tmp_path: Path, kind: str
) -> None:
    gate = tmp_path / "gate"
    task_id = scene.app.tasks["o.puts_back"].delay(str(gate)).id
    scene.wait_for(lambda: scene.noted("begin"), "its beginning")
    with refusing(redis_server, kind):
        gate.touch()
        scene.wait_for(lambda: "given back to its queue later" in scene.worker.log(), "the refusal")
    assert scene.result(task_id) == 1
    assert scene.noted("begin")[task_id] == 2


@pytest.mark.parametrize("kind", ["full", "replica"])
def test_a_worker_that_starts_waits(redis_server: RestartableValkey, tmp_path: Path, kind: str) -> None:
    urls = Urls(redis_server.url(0), redis_server.url(1))
    env = {
        "ASYNCWORKER_BROKER_URL": urls.broker_url,
        "ASYNCWORKER_RESULT_URL": urls.result_url,
        "ASYNCWORKER_STATE_DIR": str(tmp_path),
        "ASYNCWORKER_INCLUDE": outage_tasks.__name__,
        outage_tasks.LOG_VARIABLE: str(tmp_path / "log"),
    }
    with contextlib.ExitStack() as stack:
        with refusing(redis_server, kind):
            starting = running_worker(tmp_path, "--without-mingle", "--without-gossip", env=env, ready=False)
            node = stack.enter_context(starting)
            node.wait_for_log("is tried again")
            time.sleep(OUTAGE_S)
        node.wait_for_log(" ready.")
        assert node.log().count("is tried again") == 1
        assert node.stop() == 0
