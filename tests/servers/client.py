"""A client's Celery app, and its orderly end."""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
from collections.abc import Iterator
from typing import Any

import kombu.pools
from celery import Celery

import asyncworker
from asyncworker.cli.embedded import EmbeddedServer


@contextlib.contextmanager
def client_app(server: EmbeddedServer, **conf: Any) -> Iterator[Celery[Any]]:
    """An app with asyncworker installed that talks to that server; its connections are closed at the end."""
    app: Celery[Any] = Celery("client", broker=server.broker_url, backend=server.result_url, set_as_current=False)
    app.conf.update(conf)
    asyncworker.install(app)
    try:
        yield app
    finally:
        # A result's destructor talks to the backend, which must still be there.
        _collect()
        backend: Any = app.backend
        backend.result_consumer.stop()
        backend.client.close()
        # They are the process's, by URL: a closed one would be met by the next app.
        kombu.pools.reset()
        app.close()
        _collect()


def wait_until_listening(app: Celery[Any], *nodes: str, timeout_s: float = 120.0) -> None:
    """Wait until those workers obey remote control: they say "ready" a moment before they listen to it."""
    give_up_at_s = time.monotonic() + timeout_s
    missing = set(nodes)
    while missing:
        assert time.monotonic() < give_up_at_s, f"no answer from {missing}"
        for answer in app.control.ping(destination=[*missing], timeout=5, limit=len(missing)):
            missing -= answer.keys()


def _collect() -> None:
    """Collect what Celery has left, without a word about connections that it leaves unclosed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
