"""Half a minute without a word from Redis, while its connections stay open: longer than kombu waits for a word."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.outage_scene import ALL, EACH, Scene, parted_scene
from tests.servers.proxy import Proxy
from tests.servers.valkey import RestartableValkey, running_valkey

PARTITION_S = 30.0
#: Longer than it takes to begin both scenes, and shorter than the partition.
WORK_S = 15.0

#: One that gives Redis a second to answer, and so reconnects all the time; and one with all defaults, whose first check
#: of an open connection is due after 25 s.
APPS = ("tests.chaos.impatient_app", "asyncworker")


@contextlib.contextmanager
def scene_of_its_own(folder: Path, app: str) -> Iterator[tuple[Scene, Proxy, RestartableValkey]]:
    with running_valkey(folder / "valkey") as server, parted_scene(server, folder, app) as (scene, proxy):
        yield scene, proxy, server


def every(task_ids: dict[str, list[str]]) -> list[str]:
    return [task_id for some in task_ids.values() for task_id in some]


@pytest.mark.slow
@pytest.mark.xfail(
    os.environ.get("ASYNCWORKER_TESTS_FAST") == "0",
    strict=False,
    reason="kombu's BRPOP, carried out when its connection is gone, takes messages that nobody gets",
)
def test_both_workers_go_on_afterwards(tmp_path: Path) -> None:
    """What ended meanwhile is stored and acknowledged, what was sent is done: by two workers, parted side by side."""
    with contextlib.ExitStack() as stack:
        scenes = [stack.enter_context(scene_of_its_own(tmp_path / app, app)) for app in APPS]
        sent = [scene.begin(*ALL, seconds=WORK_S) for scene, _proxy, _server in scenes]
        for _scene, proxy, _server in scenes:
            proxy.partition()
        parted_at_s = time.monotonic()
        before = [scene.beats() for scene, _proxy, _server in scenes]
        meanwhile = [scene.send(*ALL, seconds=0) for scene, _proxy, _server in scenes]
        time.sleep(max(0.0, parted_at_s + PARTITION_S - time.monotonic()))

        for number, (scene, _proxy, _server) in enumerate(scenes):
            scene.check_beats(before[number], PARTITION_S)
            assert scene.noted("end").total() == EACH * len(ALL)
            stored = [scene.app.backend.get_task_meta(each)["status"] for each in every(sent[number])]
            assert "PENDING" in stored
            assert not scene.noted("begin").keys() & set(every(meanwhile[number]))

        for _scene, proxy, _server in scenes:
            proxy.heal()
        for number, (scene, _proxy, server) in enumerate(scenes):
            for name, task_ids in meanwhile[number].items():
                assert [scene.result(task_id) for task_id in task_ids] == list(range(EACH)), name
            scene.check(sent[number], redelivered=1)
            with server.connect() as broker:
                scene.wait_for(
                    lambda broker=broker: not broker.llen("celery") + broker.hlen("unacked"), "an empty broker"
                )
