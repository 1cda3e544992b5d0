"""SIGHUP to the supervisor of ``--processes``: new code for one worker after the other, and no task ended or lost."""

from __future__ import annotations

import signal
from pathlib import Path

from celery import Celery

from tests.integration.test_recycling import HELD, LONG_S, Held, Start, held
from tests.integration.test_shutdown import wait_until
from tests.integration.test_supervisor import NODES, QUICK, children, ends

__all__ = ["held"]

CODE = """
import os
from celery import shared_task

@shared_task(name="r.version")
def version():
    return [{version}, os.environ.get('SHOP_VALUE')]
"""


def test_sighup_brings_new_code_and_no_task_is_ended_or_lost(
    worker: Start, client: Celery, held: Held, tmp_path: Path
) -> None:
    module = tmp_path / "reloaded_tasks.py"
    environment_file = tmp_path / "worker.env"
    module.write_text(CODE.format(version=1))
    environment_file.write_text("SHOP_VALUE=one\n")
    env = {"ASYNCWORKER_INCLUDE": f"{HELD},reloaded_tasks", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"ASYNCWORKER_DRAIN_TIMEOUT_S": "0.2", "ASYNCWORKER_ENV_FILE": str(environment_file)}
    node = worker(None, "--processes", "2", "-c", "8", *QUICK, env=env, cwd=tmp_path)
    wait_until(lambda: node.log().count(" ready.") == 2, LONG_S)
    before = children(node)
    assert set(before) == NODES
    running = [client.tasks["h.early"].delay(*held.arguments(f"r{n}")) for n in range(4)]
    wait_until(lambda: len(held.started()) == 4, LONG_S)
    assert client.send_task("r.version").get(timeout=LONG_S) == [1, "one"]

    module.write_text(CODE.format(version=2))
    environment_file.write_text("SHOP_VALUE=two\n")
    node.signal(signal.SIGHUP)
    sent = []

    def both_are_replaced() -> bool:
        sent.append(client.send_task("r.version"))
        return node.log().count(" retires: ") == 2

    wait_until(both_are_replaced, LONG_S)
    versions = [result.get(timeout=LONG_S) for result in sent]
    assert all(version in ([1, "one"], [2, "two"]) for version in versions)
    assert client.send_task("r.version").get(timeout=LONG_S) == [2, "two"]
    assert node.log().count("is replaced: SIGHUP") == 2
    held.let_go()
    assert {result.get(timeout=LONG_S) for result in running} <= {each.pid for each in before.values()}
    assert ends(before.values())

    # Code that cannot be imported replaces nothing, and is named once.
    good = {name: process.pid for name, process in children(node).items()}
    module.write_text("import no_such_module_at_all")
    node.signal(signal.SIGHUP)
    wait_until(lambda: node.log().count("another starts in") >= 3, LONG_S)
    assert {name: children(node)[name].pid for name in good} == good
    assert client.send_task("r.version").get(timeout=LONG_S) == [2, "two"]
    failures = node.log()[node.log().rindex("SIGHUP: all workers") :]
    assert failures.count("cannot import 'reloaded_tasks': ModuleNotFoundError") <= 2
    assert len(failures.splitlines()) < 30, failures
    module.write_text(CODE.format(version=3))
    wait_until(lambda: node.log().count(" retires: ") == 4, LONG_S)
    assert client.send_task("r.version").get(timeout=LONG_S) == [3, "two"]
    assert node.stop() == 0
