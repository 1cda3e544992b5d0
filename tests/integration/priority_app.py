"""An app whose queue has priorities, where the broker is RabbitMQ."""

from celery import Celery

import asyncworker

app = Celery("priority")
app.conf.task_queue_max_priority = 9
asyncworker.install(app)
