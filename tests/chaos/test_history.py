"""Chaos, short by default: what is accepted is done, by nobody twice at once, whatever is killed, frozen or restarted.

``pytest tests/chaos/test_history.py --chaos-seed N --chaos-tasks M`` for a longer one;
``python -m tests.chaos.history`` prints what was counted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.history.aof import OPTIONS
from tests.chaos.history.brokers import Broker, RabbitBroker, RedisBroker
from tests.chaos.history.check import check
from tests.chaos.history.run import ChaosRun
from tests.chaos.history.show import show
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.valkey import running_valkey


@pytest.mark.timeout(3600)  # of a long run; a short one that hangs ends by itself once nothing moves
@pytest.mark.parametrize("name", ["redis", "redis-fast", "rabbitmq"])
@pytest.mark.promise("early-ack-task-runs-again-only-unacknowledged")
def test_nothing_is_lost_and_nothing_is_run_by_two(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed, tasks = pytestconfig.getoption("chaos_seed"), pytestconfig.getoption("chaos_tasks")
    with running_valkey(tmp_path / "valkey", OPTIONS) as valkey:
        broker: Broker
        if name != "rabbitmq":
            broker = RedisBroker(valkey, fast=name == "redis-fast")
        else:
            rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
            broker = RabbitBroker(rabbitmq, valkey)
        run = ChaosRun(broker, tmp_path / "run", seed=seed, tasks=tasks, rate=30.0)
        history = run.run()
    report = check(history)
    show(report, f"{name}, seed {seed}")
    assert not report.violations, "\n".join(report.violations)
    assert len(history.kinds) == tasks
    assert report.total("done") > tasks / 2
    # It did hurt: else it shows nothing.
    assert history.deaths
    assert history.broker_harms
