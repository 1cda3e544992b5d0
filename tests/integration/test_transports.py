"""Brokers without an event loop of kombu's: the pool settles tasks all the same."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from tests.integration import tasks
from tests.servers.worker import running_worker

CONFIG = """
import asyncworker
from celery import Celery

app = Celery("filesystem", broker="filesystem://", backend="file://{folder}/results")
app.conf.broker_transport_options = {{
    "data_folder_in": "{folder}/queue", "data_folder_out": "{folder}/queue", "control_folder": "{folder}/control",
}}
asyncworker.install(app, include=["{tasks}"])
"""


def test_filesystem(tmp_path: Path) -> None:
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "filesystem_app.py").write_text(CONFIG.format(folder=tmp_path, tasks=tasks.__name__))
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    arguments = ("--without-mingle", "--without-gossip", "-c", "10")
    with running_worker(tmp_path, *arguments, app="filesystem_app", env=env) as node:
        app = Celery("client", broker="filesystem://", backend=f"file://{tmp_path}/results", set_as_current=False)
        app.conf.broker_transport_options = {
            "data_folder_in": f"{tmp_path}/queue",
            "data_folder_out": f"{tmp_path}/queue",
            "control_folder": f"{tmp_path}/control",
        }
        results = [app.send_task("t.add", (n, 1)) for n in range(20)]
        late = [app.send_task("t.sleep_late", (0.1,)) for _ in range(3)]
        assert [result.get(timeout=120) for result in results] == [n + 1 for n in range(20)]
        assert [result.get(timeout=120) for result in late] == [0.1] * 3
        running = app.send_task("t.sleep", (2,))
        node.wait_for_log(f"t.sleep[{running.id}] received")
        assert node.stop() == 0
        assert running.state == "SUCCESS"
