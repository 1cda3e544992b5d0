"""An app whose worker logs which item a record was made in."""

from celery import Celery

import asyncworker

app: Celery = Celery("items")
app.conf.worker_log_format = "%(levelname)s <%(item_index)s %(item_key)s %(item_attempt)s %(item_run)s> %(message)s"
asyncworker.install(app)
