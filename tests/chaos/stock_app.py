"""An app of Celery's own, without asyncworker; broker and backend are those of the environment."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery

app: Celery[Any] = Celery("stock")
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_connection_max_retries = None


@app.task(name="stock.sleep", acks_late=True)
def sleep(seconds: float) -> None:
    time.sleep(seconds)
