"""Broker and results behind TLS, with a certificate that is checked: the batching transport and the batched results."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import chord, group

from asyncworker import publish_many
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.http import self_signed
from tests.servers.proxy import running_proxy
from tests.servers.valkey import running_valkey
from tests.servers.worker import running_worker

WAIT_S = 120.0


def test_tasks_groups_chords_and_results(tmp_path: Path) -> None:
    """The server that the tests have speaks no TLS; what stands before it speaks nothing else."""
    tls, certificate = self_signed(tmp_path)
    with running_valkey(tmp_path / "valkey") as server, running_proxy(server.port, tls) as proxy:
        with pytest.raises(redis.ConnectionError), redis.Redis(port=proxy.port) as plain:
            plain.ping()
        place = f"rediss://127.0.0.1:{proxy.port}"
        trusting = f"ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        urls: Any = SimpleNamespace(broker_url=f"{place}/0?{trusting}", result_url=f"{place}/1?{trusting}")
        run_all(urls, tmp_path)
        with server.connect() as broker:
            calls = broker.info("commandstats")
    if os.environ.get("ASYNCWORKER_FAST_BROKER") != "0":
        # Messages were taken by script.
        assert calls["cmdstat_evalsha"]["calls"] > 0


def run_all(urls: Any, folder: Path) -> None:
    env = {
        "ASYNCWORKER_BROKER_URL": urls.broker_url,
        "ASYNCWORKER_RESULT_URL": urls.result_url,
        "ASYNCWORKER_STATE_DIR": str(folder),
        "ASYNCWORKER_INCLUDE": tasks.__name__,
    }
    with running_worker(folder, "-c", "20", env=env) as worker, client_app(urls) as app:
        add, total = app.tasks["t.add"], app.tasks["t.total"]

        async def main() -> None:
            results = await publish_many([add.s(number, 1) for number in range(300)])
            values = await asyncio.gather(*[result.aget(timeout=WAIT_S) for result in results])
            assert values == list(range(1, 301))
            [together] = await publish_many([group(add.s(number, 2) for number in range(3))])
            assert await together.aget(timeout=WAIT_S) == [2, 3, 4]

        asyncio.run(main())
        # No result outlives the connection: its destructor would look for it.
        assert chord([add.s(number, 0) for number in range(5)], total.s()).apply_async().get(timeout=WAIT_S) == 10
        assert "refuses" not in worker.log()
        assert worker.stop() == 0
