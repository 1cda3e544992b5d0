"""An app whose worker gives back what an earlier one has left at once, and then each second."""

from celery import Celery

import asyncworker
from tests.integration import tasks

app: Celery = Celery("restoring")
app.conf.broker_transport_options = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
asyncworker.install(app, include=[tasks.__name__])
