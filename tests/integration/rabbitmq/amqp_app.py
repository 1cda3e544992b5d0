"""An app whose broker is a RabbitMQ: behind TLS, with a certificate that is checked, or with quorum queues."""

import os
import ssl

from celery import Celery

import asyncworker

#: Delayed messages of quorum queues go through topic exchanges.
QUORUM = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "worker_detect_quorum_queues": True,
    "broker_transport_options": {"confirm_publish": True},
}

app = Celery("amqp")
if "AMQP_CA" in os.environ:
    app.conf.broker_use_ssl = {"ca_certs": os.environ["AMQP_CA"], "cert_reqs": ssl.CERT_REQUIRED}
if "AMQP_QUORUM" in os.environ:
    app.conf.update(QUORUM)
asyncworker.install(app)
