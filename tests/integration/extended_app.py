"""An app whose results tell of their task."""

from celery import Celery

import asyncworker

app = Celery("extended")
app.conf.result_extended = True
asyncworker.install(app)
