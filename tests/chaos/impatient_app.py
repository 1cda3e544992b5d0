"""An app that gives Redis a second to answer; the default is longer than a test should take."""

from celery import Celery

import asyncworker

app = Celery("impatient")
app.conf.broker_transport_options = {"socket_timeout": 1.0, "socket_keepalive": True, "health_check_interval": 1}
app.conf.redis_socket_timeout = 1.0
asyncworker.install(app)
