"""The same task for stock Celery: paramiko, one connection kept in each process."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from celery import Celery

__all__ = ["app", "fetch"]

app = Celery(
    "benchmarks.sftp_stock_tasks",
    broker=os.environ["BENCHMARK_BROKER_URL"],
    backend=os.environ["BENCHMARK_RESULT_URL"],
)
app.conf.update(worker_hijack_root_logger=False, task_default_queue="stock")


@app.task(name="benchmarks.sftp.fetch_synchronously")
def fetch(server: str, remote: str, local: str, name: str) -> None:
    """Fetch one file."""
    _connection(server).get(f"{remote}/{name}", f"{local}/{name}")


@cache
def _connection(server: str) -> Any:
    import paramiko

    login = json.loads(os.environ["BENCHMARK_SFTP_LOGINS"])[server]
    client = paramiko.SSHClient()
    client.load_host_keys(login["known_hosts"])
    client.connect(
        login["host"],
        login["port"],
        login["username"],
        key_filename=login["client_keys"],
        look_for_keys=False,
        allow_agent=False,
    )
    return client.open_sftp()
