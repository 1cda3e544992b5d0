"""The broker and the result backend go away and come back: the worker goes on, and what was accepted is done."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import chain, chord
from celery.exceptions import TimeLimitExceeded

from tests.chaos.outage_scene import ALL, EACH, GET_S, OUTAGE_S, WORK_S, Scene, Urls, parted_scene, running_scene
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.valkey import RestartableValkey, running_valkey


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RestartableValkey]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def scene(redis_server: RestartableValkey, tmp_path: Path) -> Iterator[Scene]:
    urls = Urls(redis_server.url(0), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as running:
        yield running


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_ends_and_comes_back(scene: Scene, redis_server: RestartableValkey, end: str) -> None:
    """Celery 5.7.0 dies of it: see ``test_excluded_celery.py``."""
    sent = scene.begin(*ALL)
    getattr(redis_server, end)()
    before = scene.beats()
    scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
    time.sleep(OUTAGE_S - WORK_S)
    scene.check_beats(before)
    redis_server.start()
    scene.check(sent)


def test_redis_does_not_answer_for_a_while(scene: Scene, redis_server: RestartableValkey) -> None:
    """Frozen: its connections stay open, nothing comes back; what the tasks end with has to wait."""
    sent = scene.begin(*ALL)
    redis_server.freeze()
    before = scene.beats()
    try:
        scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
        time.sleep(OUTAGE_S - WORK_S)
        scene.check_beats(before)
    finally:
        redis_server.thaw()
    scene.check(sent)


@pytest.mark.parametrize("then", ["heal", "cut"])
def test_the_worker_is_parted_from_redis(redis_server: RestartableValkey, tmp_path: Path, then: str) -> None:
    """A network that is parted sends no end of a connection; afterwards it goes on, or everything was reset."""
    with parted_scene(redis_server, tmp_path) as (scene, proxy):
        sent = scene.begin(*ALL)
        proxy.partition()
        before = scene.beats()
        scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
        time.sleep(OUTAGE_S - WORK_S)
        scene.check_beats(before)
        if then == "cut":
            proxy.cut()
        proxy.heal()
        scene.check(sent, redelivered=1 if then == "cut" else 0)


# Not strict: now and then the worker has just none pending.
@pytest.mark.xfail(
    os.environ.get("ASYNCWORKER_TESTS_FAST") == "0",
    strict=False,
    reason="kombu's BRPOP takes a message out of the queue before it is known to have arrived",
)
@pytest.mark.promise("redis-loses-no-message-on-its-way")
def test_a_message_on_its_way_when_the_connection_is_lost(redis_server: RestartableValkey, tmp_path: Path) -> None:
    with parted_scene(redis_server, tmp_path) as (scene, proxy):
        scene.begin("o.late")
        proxy.partition()
        # The worker waits at the server, which answers at once.
        on_its_way = scene.app.tasks["o.late"].delay(0, 0).id
        proxy.cut()
        proxy.heal()
        for task_id in scene.send("o.late", seconds=0)["o.late"]:
            scene.result(task_id)
        scene.stop_path.touch()
        scene.wait_for(lambda: scene.stats()["in-flight"] == 0, "an empty pool")
        assert scene.noted("begin")[on_its_way] >= 1


def test_connections_die_without_a_word(redis_server: RestartableValkey, tmp_path: Path) -> None:
    """Nothing ever comes of them again, not even an end: only the time that an answer takes tells."""
    with parted_scene(redis_server, tmp_path, app="tests.chaos.impatient_app") as (scene, proxy):
        sent = scene.begin(*ALL)
        proxy.partition()
        before = scene.beats()
        scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
        time.sleep(OUTAGE_S - WORK_S)
        scene.check_beats(before)
        proxy.forget()
        scene.check(sent, redelivered=2)


def test_every_connection_is_killed_again_and_again(scene: Scene, redis_server: RestartableValkey) -> None:
    sent = scene.begin(*ALL)
    before = scene.beats()
    rounds = 0
    while scene.noted("end").total() < EACH * len(ALL) or rounds < 5:
        redis_server.kill_connections()
        rounds += 1
        time.sleep(OUTAGE_S / 10)
    assert scene.beats() > before
    scene.check(sent, redelivered=rounds)


@pytest.mark.promise("what-follows-is-sent")
def test_what_follows_a_task_is_sent_when_the_broker_is_back(scene: Scene, redis_server: RestartableValkey) -> None:
    """The next task of a chain, and a retry, are to be sent while Redis is down; a chord is to be counted."""
    scene.app.tasks["o.heartbeat"].delay(str(scene.stop_path))
    late = scene.app.tasks["o.late"]
    work_s = 5.0  # the first to begin is not to end before the last one has begun
    chains = [chain(late.si(0, work_s), late.si(n, 0), app=scene.app).apply_async().id for n in range(5)]
    again = [scene.app.tasks["o.again"].delay(n, work_s).id for n in range(5)]
    counted = chord([late.si(n, work_s) for n in range(5)], scene.app.tasks["o.total"].s(), app=scene.app)().id
    scene.wait_for(lambda: len(scene.noted("begin")) >= 15, "the beginning of every task")
    redis_server.kill()
    before = scene.beats()
    time.sleep(work_s + OUTAGE_S - WORK_S)
    scene.check_beats(before)
    redis_server.start()
    assert [scene.result(task_id) for task_id in chains] == list(range(5))
    assert [scene.result(task_id) for task_id in again] == list(range(5))
    assert scene.result(counted) == 10
    scene.check({})


@pytest.mark.parametrize("how", ["delay", "adelay"])
@pytest.mark.promise("sending-in-an-outage-raises")
def test_tasks_that_send_others_while_the_broker_is_away_hold_up_none(
    scene: Scene, redis_server: RestartableValkey, tmp_path: Path, how: str
) -> None:
    gate = tmp_path / "gate"
    scene.app.tasks["o.heartbeat"].delay(str(scene.stop_path))
    senders = [scene.app.tasks["o.sends"].delay(how, str(gate)).id for _ in range(5)]
    scene.wait_for(lambda: scene.beats() and scene.noted("begin").keys() >= set(senders), "the beginning of every task")
    redis_server.kill()
    gate.touch()
    before, since_s = scene.beats(), time.monotonic()
    scene.wait_for(lambda: scene.noted("refused").keys() >= set(senders), "a refusal for each")
    scene.check_beats(before, time.monotonic() - since_s)
    redis_server.start()
    sent = [scene.result(task_id) for task_id in senders]
    assert [scene.result(task_id) for task_id in sent] == [1] * len(senders)
    scene.check({})


# -- RabbitMQ, which gives back at once what a lost connection held; results on Redis ----------------------------------


@pytest.mark.parametrize("how", ["app", "kill"])
def test_rabbitmq_ends_and_comes_back(
    rabbitmq: RabbitMQ, redis_server: RestartableValkey, tmp_path: Path, how: str
) -> None:
    urls = Urls(rabbitmq.broker_url(rabbitmq.add_vhost()), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as scene:
        sent = scene.begin(*ALL)
        before = scene.beats()
        if how == "app":
            rabbitmq.ctl("stop_app")
        else:
            rabbitmq.kill()
        scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
        time.sleep(OUTAGE_S - WORK_S)
        scene.check_beats(before)
        if how == "app":
            rabbitmq.ctl("start_app")
        else:
            rabbitmq.start()
        scene.check(sent, redelivered=1)


def test_rabbitmq_takes_no_messages_for_a_while(
    rabbitmq: RabbitMQ, redis_server: RestartableValkey, tmp_path: Path
) -> None:
    """Its memory is full: it holds back who publishes, and what follows a task is to be sent."""
    urls = Urls(rabbitmq.broker_url(rabbitmq.add_vhost()), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as scene:
        late = scene.app.tasks["o.late"]
        chains = [chain(late.si(1, WORK_S), late.si(2, 0), app=scene.app).apply_async().id for _ in range(EACH)]
        again = scene.send("o.again", seconds=2 * WORK_S)["o.again"]
        sent = scene.begin(*ALL, seconds=2 * WORK_S)
        rabbitmq.ctl("set_vm_memory_high_watermark", "0")
        try:
            before = scene.beats()
            time.sleep(2 * WORK_S + OUTAGE_S)
            scene.check_beats(before)
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        scene.check(sent)
        assert [scene.result(task_id) for task_id in chains] == [2] * EACH
        assert [scene.result(task_id) for task_id in again] == list(range(EACH))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_the_connection_is_lost_just_after_sigterm(
    rabbitmq: RabbitMQ, redis_server: RestartableValkey, tmp_path: Path, broker: str
) -> None:
    """What runs is finished, the worker ends, and what could not be acknowledged is there for another one."""
    vhost = rabbitmq.add_vhost()
    urls = Urls(redis_server.url(0) if broker == "redis" else rabbitmq.broker_url(vhost), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as scene:
        sent = scene.send("o.late", seconds=3)["o.late"]
        scene.wait_for(lambda: scene.noted("begin").total() == EACH, "the beginning of every task")
        scene.worker.signal(signal.SIGTERM)
        if broker == "redis":
            redis_server.kill_connections()
        else:
            rabbitmq.drop_connections(vhost)
        assert scene.worker.wait(GET_S) == 0
        assert scene.noted("end").total() == EACH
        assert [scene.app.backend.get_result(task_id) for task_id in sent] == list(range(EACH))


def test_results_wait_for_redis_while_rabbitmq_goes_on(
    rabbitmq: RabbitMQ, redis_server: RestartableValkey, tmp_path: Path
) -> None:
    """The backend alone is away: tasks are taken and run, remote control answers, and time limits do not hold it up."""
    urls = Urls(rabbitmq.broker_url(rabbitmq.add_vhost()), redis_server.url(1))
    with running_scene(tmp_path, urls, urls) as scene:
        sent = scene.begin(*ALL)
        limited = scene.app.tasks["o.early"].apply_async((0, 60), time_limit=1).id
        scene.wait_for(lambda: scene.noted("begin")[limited], "the task with a limit")
        redis_server.freeze()
        try:
            scene.wait_for(lambda: "Hard time limit (1" in scene.worker.log(), "the hard limit")
            scene.wait_for(lambda: scene.noted("end").total() == EACH * len(ALL), "the end of every task")
            scene.wait_for(lambda: scene.app.control.ping(timeout=5, limit=1), "an answer of remote control")
        finally:
            redis_server.thaw()
        assert isinstance(scene.result(limited), TimeLimitExceeded)
        scene.check(sent)


@pytest.mark.promise("ending-worker-returns-late-tasks")
def test_late_tasks_of_a_worker_that_ends_in_an_outage_are_done_by_the_next(
    redis_server: RestartableValkey, tmp_path: Path
) -> None:
    """Neither what follows them nor their acknowledgement could be sent."""
    settings = {"ASYNCWORKER_DRAIN_TIMEOUT_S": "2", "ASYNCWORKER_LEASE_S": "3"}
    urls = Urls(redis_server.url(0), redis_server.url(1))
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    followed_by: dict[str, str] = {}
    with running_scene(folders[0], urls, urls, settings=settings) as scene:
        late, early = scene.app.tasks["o.late"], scene.app.tasks["o.early"]
        for number in range(EACH):
            # None is to end before the last one has begun: what follows it would begin here.
            last = chain(late.s(number, 10 * WORK_S), early.si(number, 0)).apply_async()
            followed_by[last.parent.id] = last.id
        del last  # it talks to its server in the end
        scene.wait_for(lambda: followed_by.keys() <= scene.noted("begin").keys(), "the beginning of every task")
        redis_server.stop()
        scene.wait_for(lambda: scene.noted("end").total() == EACH, "the end of every task")
        scene.worker.signal(signal.SIGTERM)
        scene.worker.wait(2 * GET_S)
        assert scene.noted("begin").keys() == followed_by.keys()
    redis_server.start()
    with running_scene(folders[1], urls, urls, settings=settings) as scene:
        assert [scene.result(task_id) for task_id in followed_by.values()] == list(range(EACH))
        assert followed_by.keys() <= scene.noted("end").keys()
