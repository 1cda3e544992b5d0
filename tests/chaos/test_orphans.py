"""The short form of ``python -m tests.chaos.orphans``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from asyncworker.cli.embedded import EmbeddedServer
from tests.chaos.orphans import ALL, Kill, kill_all
from tests.servers.rabbitmq import RabbitMQ

SOME = [
    Kill("worker", signal.SIGKILL, "recycling"),
    Kill("worker", signal.SIGQUIT, "work"),
    Kill("supervisor", signal.SIGKILL, "recycling"),
]


@pytest.mark.timeout(900)
@pytest.mark.promise("killed-supervisor-leaves-nothing")
def test_no_kill_of_a_supervisor_or_its_workers_leaves_a_process_or_loses_a_task(
    rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path
) -> None:
    outcomes = list(kill_all(SOME, tmp_path, rabbitmq, valkey, seed=1))
    assert [(each.orphans, each.lost) for each in outcomes] == [([], [])] * len(SOME)
    assert set(SOME) <= set(ALL)
