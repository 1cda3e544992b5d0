"""An app whose messages come again after four seconds."""

from __future__ import annotations

from celery import Celery

import asyncworker

app = Celery("impatient")
app.conf.broker_transport_options = {
    "visibility_timeout": 4,
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
}
asyncworker.install(app)
