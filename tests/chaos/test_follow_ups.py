"""What follows a task is sent once the broker is back; results are elsewhere, as with RabbitMQ and Redis."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from tests.chaos import follow_tasks
from tests.chaos.outage_scene import OUTAGE_S, Scene, Urls, running_scene
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.valkey import running_valkey

#: More than there are threads that may wait for the broker.
CHORDS = 6
FEW = 3


@dataclass
class Away:
    """A worker whose broker goes away alone, and the file that its tasks wait for."""

    scene: Scene
    gate: Path
    broker_away: Callable[[], contextlib.AbstractContextManager[object]]

    def __post_init__(self) -> None:
        self.scene.app.tasks["o.heartbeat"].delay(str(self.scene.stop_path))

    def signature(self, name: str, *args: Any, **options: Any) -> Any:
        return self.scene.app.signature(name, args=(*args, str(self.gate)), immutable=True, **options)

    def send(self, name: str, *args: Any, **options: Any) -> str:
        return str(self.signature(name, *args).apply_async(**options).id)

    def outage(self, begins: int) -> None:
        """Once so many tasks have begun, have them end while the broker is away, for a while."""
        scene = self.scene
        scene.wait_for(lambda: scene.beats() and scene.noted("begin").total() >= begins, "the beginning of every task")
        with self.broker_away():
            self.gate.touch()
            before = scene.beats()
            scene.wait_for(lambda: "is tried again" in scene.worker.log(), "the outage")
            time.sleep(OUTAGE_S)
            scene.check_beats(before)


@contextlib.contextmanager
def _killed(server: Any) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@pytest.fixture(params=["redis is killed", "redis is read-only", "rabbitmq is killed"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Away]:
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(running_valkey(tmp_path / "results"))
        if request.param.startswith("rabbitmq"):
            rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
            broker_url = rabbitmq.broker_url(rabbitmq.add_vhost())
            away: Callable[[], Any] = lambda: _killed(rabbitmq)  # noqa: E731
        else:
            if request.param == "redis is read-only" and os.environ.get("ASYNCWORKER_TESTS_FAST") == "0":
                pytest.skip("kombu's transport ends the worker, as under prefork")
            broker = stack.enter_context(running_valkey(tmp_path / "broker"))
            broker_url = broker.url(0)
            read_only = request.param == "redis is read-only"
            away = lambda: broker.refusing_writes(as_replica=True) if read_only else _killed(broker)  # noqa: E731
        urls = Urls(broker_url, results.url(1))
        tasks = f"{follow_tasks.__name__},tests.chaos.outage_tasks"
        scene = stack.enter_context(running_scene(tmp_path, urls, urls, tasks=tasks))
        yield Away(scene, tmp_path / "gate", away)


@pytest.mark.promise("what-follows-is-sent")
def test_chord_bodies_are_sent(away: Away) -> None:
    total = away.scene.app.signature("f.total")
    header = lambda name: [away.signature(name, n) for n in range(FEW)]  # noqa: E731
    sent = [chord(header("f.work"), total)().id for _ in range(CHORDS)]
    sent += [chord(header("f.work_sync"), total)().id for _ in range(FEW)]
    away.outage((CHORDS + FEW) * FEW)
    assert [away.scene.result(task_id) for task_id in sent] == [sum(range(FEW))] * (CHORDS + FEW)


@pytest.mark.promise("what-follows-is-sent")
def test_errbacks_are_sent_and_the_failure_stays_its_own(away: Away) -> None:
    errback = away.scene.app.signature("f.errback")
    failed = [away.send(name, link_error=errback) for name in ("f.fail", "f.fail_sync") for _ in range(FEW)]
    late = away.send("f.too_long", link_error=errback)
    body = away.scene.app.signature("f.total").on_error(errback)
    in_chord = chord([away.signature("f.fail"), away.signature("f.work", 1)], body)().id
    away.outage(len(failed) + 3)
    for task_id in failed:
        assert repr(away.scene.result(task_id)) == "ValueError('its own')"
    assert type(away.scene.result(late)).__name__ == "TimeLimitExceeded"
    assert type(away.scene.result(in_chord)).__name__ == "ChordError"
    noted = lambda: away.scene.noted("errback")  # noqa: E731
    away.scene.wait_for(lambda: noted().keys() >= {*failed, late, in_chord}, "every errback")
    assert set(noted().values()) == {1}


@pytest.mark.promise("what-follows-is-sent")
def test_links_chains_retries_and_replacements_are_sent(away: Away) -> None:
    app = away.scene.app
    chains = [
        chain(away.signature(name, 1), away.signature("f.work", 2)).apply_async().id
        for name in ("f.work", "f.work_sync")
    ]
    into_groups = (
        chain(
            away.signature("f.work", 1),
            group(away.signature("f.work", n) for n in range(FEW)),
            app.signature("f.total"),
        )
        .apply_async()
        .id
    )
    links = [app.signature("f.linked"), app.signature("f.linked")]
    away.send("f.work", 7, link=links)
    away.send("f.work_sync", 8, link=links)
    # No task of this worker has that name: it comes back to it all the same.
    away.send("f.work", 9, link=app.signature("f.elsewhere"))
    again = {
        name: away.send(name, 5)
        for name in ("f.again", "f.again_sync", "f.again_in_child", "f.replaced", "f.replaced_by_group")
    }
    away.outage(2 + 1 + 3 + len(again))
    assert [away.scene.result(task_id) for task_id in chains] == [2, 2]
    assert away.scene.result(into_groups) == sum(range(FEW))
    found = {name: away.scene.result(task_id) for name, task_id in again.items()}
    assert found == {name: [5, 5] if name.endswith("group") else 5 for name in again}
    away.scene.wait_for(lambda: away.scene.noted("linked") == {"7": 2, "8": 2}, "every link")
    away.scene.wait_for(lambda: "unregistered task of type 'f.elsewhere'" in away.scene.worker.log(), "its message")


@pytest.mark.parametrize("how", ["killed", "read-only", "full"])
def test_chords_are_sent_whole_while_their_size_cannot_be_stored(tmp_path: Path, how: str) -> None:
    """How many parts a chord has is kept with the results, which are away; the broker is there."""
    tasks = f"{follow_tasks.__name__},tests.chaos.outage_tasks"
    with running_valkey(tmp_path / "broker") as broker, running_valkey(tmp_path / "results") as results:
        urls = Urls(broker.url(0), results.url(1))
        with running_scene(tmp_path, urls, urls, tasks=tasks) as scene:
            refuses = lambda: results.refusing_writes(as_replica=how == "read-only")  # noqa: E731
            away = Away(scene, tmp_path / "gate", (lambda: _killed(results)) if how == "killed" else refuses)
            replaced = [away.send(f"f.replaced_by_{what}", 5) for what in ("group", "chord") for _ in range(FEW)]
            header = group(away.signature("f.work", n) for n in range(FEW))
            following = [
                chain(away.signature(name, 1), header, scene.app.signature("f.total")).apply_async().id
                for name in ("f.work", "f.work_sync")
            ]
            away.outage(len(replaced) + len(following))
            assert [scene.result(task_id) for task_id in replaced] == [[5, 5]] * FEW + [10] * FEW
            assert [scene.result(task_id) for task_id in following] == [sum(range(FEW))] * 2


@pytest.mark.skipif(os.environ.get("ASYNCWORKER_TESTS_FAST") == "0", reason="kombu's transport ends the worker")
def test_no_retry_vanishes_while_redis_is_full(tmp_path: Path) -> None:
    """Acknowledged early, each is nowhere but in its worker; their senders and the consumer reconnect meanwhile."""
    many = 150
    tasks = f"{follow_tasks.__name__},tests.chaos.outage_tasks"
    with running_valkey(tmp_path / "valkey") as server:
        urls = Urls(server.url(0), server.url(1))
        with running_scene(tmp_path, urls, urls, tasks=tasks) as scene:
            away = Away(scene, tmp_path / "gate", lambda: server.refusing_writes(as_replica=False))
            sent = [away.send("f.again", n) for n in range(many)]
            away.outage(90)  # of the hundred slots that there are
            assert [scene.result(task_id) for task_id in sent] == list(range(many))
            assert set(scene.noted("begin").values()) == {2}
