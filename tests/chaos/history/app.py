"""The workers' app: what is not acknowledged comes again after seconds, and a lost lock is free again after seconds."""

from __future__ import annotations

import os

from celery import Celery

import asyncworker
from tests.chaos.history.settings import BROKER_VARIABLE, VISIBILITY_S

app = Celery("history")
if os.environ.get(BROKER_VARIABLE) == "redis":
    app.conf.broker_transport_options = {
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it gives messages back would keep the others from it for five minutes.
        "unacked_mutex_expire": 5,
        "socket_timeout": 5.0,
        "socket_keepalive": True,
    }
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_connection_max_retries = None
app.conf.redis_socket_timeout = 5.0
asyncworker.install(app)
