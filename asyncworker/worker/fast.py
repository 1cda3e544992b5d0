"""Chooses the consumer and the transport of our own, where broker and configuration allow it."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from asyncworker.settings import Settings

__all__ = ["use_consumer", "use_fast_broker"]

logger = logging.getLogger(__name__)

CONSUMER = "asyncworker.worker.consumer:Consumer"
#: How long a process may be silent before its messages return to their queues.
LEASE_OPTION = "asyncworker_lease_s"
STOCK_CONSUMER = "celery.worker.consumer:Consumer"
#: By scheme: a transport of ours, and kombu's own, in which no message can end the worker.
TRANSPORTS = {
    "redis": ("transport:Transport", "guarded:RedisTransport"),
    "rediss": ("transport:Transport", "guarded:RedisTransport"),
    "redis+socket": ("transport:SocketTransport", "guarded:RedisSocketTransport"),
    "amqp": ("amqp_transport:Transport", "guarded:AMQPTransport"),
    "pyamqp": ("amqp_transport:Transport", "guarded:AMQPTransport"),
    "amqps": ("amqp_transport:SSLTransport", "guarded:AMQPSSLTransport"),
}
_PACKAGE = "asyncworker.worker"
_NONE = ("", "")


def use_consumer(app: Any) -> None:
    """Have this process, a worker that is about to start, consume by our own consumer; one of the app's own stays."""
    if app.conf.worker_consumer == STOCK_CONSUMER:
        app.conf.worker_consumer = CONSUMER


def use_fast_broker(app: Any, settings: Settings) -> None:
    """Have this process, a worker that is about to start, consume by a transport of ours; the app's URLs stay.

    It fetches in batches, unless that is off: then it is kombu's, and guarded.

    Other brokers than Redis and RabbitMQ, Sentinel, several URLs to fall back on and a transport of the app's own keep
    kombu's.
    """
    conf = app.conf
    if conf.broker_transport:
        return
    urls = [conf.broker_read_url, conf.broker_write_url]
    if not all(isinstance(url, str) and ";" not in url and url.count("://") == 1 for url in urls):
        return
    schemes = {urlsplit(url).scheme for url in urls}
    transports = {TRANSPORTS.get(scheme, _NONE)[0 if settings.fast_broker else 1] for scheme in schemes}
    if len(transports) != 1 or not (transport := transports.pop()):
        if any(scheme.startswith(("redis", "sentinel")) for scheme in schemes):
            logger.info("the broker is not a single Redis: kombu's own transport is used")
        return
    conf.broker_transport = f"{_PACKAGE}.{transport}"
    if transport.startswith("transport:"):
        conf.broker_transport_options = {**conf.broker_transport_options, LEASE_OPTION: settings.lease_s}
    if schemes == {"redis+socket"}:
        conf.broker_read_url, conf.broker_write_url = (url.removeprefix("redis+") for url in urls)
