"""An app whose broker is a RabbitMQ behind TLS, with a certificate that is checked."""

import os
import ssl

from celery import Celery

import asyncworker

app = Celery("secure")
app.conf.broker_use_ssl = {"ca_certs": os.environ["AMQP_CA"], "cert_reqs": ssl.CERT_REQUIRED}
asyncworker.install(app)
