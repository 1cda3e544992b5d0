"""An app whose broker is a RabbitMQ: behind TLS, with a certificate that is checked, or with quorum queues."""

import os
import ssl
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

import asyncworker

#: Delayed messages of quorum queues go through topic exchanges.
QUORUM = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "worker_detect_quorum_queues": True,
    "broker_transport_options": {"confirm_publish": True},
}


def quorum(delivery_limit: int) -> dict[str, Any]:
    """Return the settings of a quorum queue that drops what is delivered again more often than that."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": delivery_limit}
    exchange = Exchange("celery", type="topic")
    return QUORUM | {"task_queues": [Queue("celery", exchange, routing_key="celery", queue_arguments=arguments)]}


app = Celery("amqp")
if "AMQP_CA" in os.environ:
    app.conf.broker_use_ssl = {"ca_certs": os.environ["AMQP_CA"], "cert_reqs": ssl.CERT_REQUIRED}
if "AMQP_QUORUM" in os.environ:
    limit = os.environ.get("AMQP_DELIVERY_LIMIT")
    app.conf.update(quorum(int(limit)) if limit else QUORUM)
asyncworker.install(app)
