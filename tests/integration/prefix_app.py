"""An app whose keys at the broker have a prefix."""

from celery import Celery

import asyncworker

app = Celery("prefixed")
app.conf.broker_transport_options = {"global_keyprefix": "app1:"}
asyncworker.install(app)
