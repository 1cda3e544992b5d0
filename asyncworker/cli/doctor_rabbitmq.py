"""The doctor's check of RabbitMQ's limits: how often it delivers a message again, and how long it waits for its end.

AMQP tells a client neither. What queues declare is known here; what policies set is read from the management API, where
it answers. ``consumer_timeout`` of ``rabbitmq.conf`` is told by neither.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from asyncworker.cli.doctor_here import late_tasks, named, time_limit_s
from asyncworker.cli.findings import Finding, fine, told, warning
from asyncworker.redaction import redacted
from asyncworker.settings import Settings
from asyncworker.worker.guarded import delivery_limit

__all__ = ["check_rabbitmq"]

#: RabbitMQ's own since 3.8.17.
_DEFAULT_TIMEOUT_S = 1800.0

_ANSWER_S = 5.0


@dataclass(frozen=True)
class _Queue:
    """A queue's limits; ``None``: none that is known."""

    name: str
    delivery_limit: int | None
    timeout_s: float | None


def check_rabbitmq(app: Any, settings: Settings, management_url: str) -> Iterator[Finding]:
    """Name the limits of each queue that the app consumes from; nothing for other brokers.

    Args:
        app: Names the broker and its queues.
        settings: ``max_deliveries``.
        management_url: Of the management API; empty: the broker's host, with RabbitMQ's usual port.
    """
    try:
        connection = app.connection_for_read()
        if connection.transport.driver_type != "amqp":
            return
        with connection:
            connection.ensure_connection(max_retries=1)
            server = dict(connection.connection.server_properties)
    except Exception:  # the broker's own check tells it
        return
    api = _Management(connection, management_url)
    queues = [_queue(each, server, api) for each in app.amqp.queues.consume_from.values()]
    if api.error:
        yield fine("broker limits", f"policies are not read: {api.error}; `--management-url` names another address")
    for queue in queues:
        yield _delivery_finding(queue, settings.max_deliveries)
    yield from _timeout_findings(app, queues)


def _queue(declared: Any, server: dict[str, Any], api: _Management) -> _Queue:
    """Return what holds for a queue: of an argument and a policy the lower."""
    arguments = dict(declared.queue_arguments or {})
    found = api.queue(declared.name)
    arguments |= found.get("arguments") or {}
    policy = found.get("effective_policy_definition") or {}
    limits = [delivery_limit(arguments, server)]
    if arguments.get("x-queue-type") == "quorum":
        limits.append(policy.get("delivery-limit"))
        if "delivery-limit" in policy and "x-delivery-limit" not in arguments:
            del limits[0]  # the server's own is replaced
    timeouts = [arguments.get("x-consumer-timeout"), policy.get("consumer-timeout")]
    known_ms = [each for each in timeouts if isinstance(each, int)]
    return _Queue(
        declared.name,
        min((each for each in limits if isinstance(each, int) and each >= 0), default=None),
        min(known_ms) / 1000 if known_ms else None,
    )


def _delivery_finding(queue: _Queue, max_deliveries: int) -> Finding:
    limit = queue.delivery_limit
    if limit is None:
        return fine("broker limits", f"queue {queue.name}: no delivery limit is known")
    text = f"queue {queue.name}: a message is delivered again {limit} times at most"
    if limit > max_deliveries > 0:
        return fine("broker limits", text)
    than = f"max_deliveries ({max_deliveries})" if max_deliveries else "what max_deliveries (0, no limit) allows"
    return warning(
        "broker limits",
        f"{text}, which is not more than {than}: the broker may drop a task before it is given up and kept",
        "raise x-delivery-limit or the policy, as deploy/rabbitmq/policy.sh does, or lower ASYNCWORKER_MAX_DELIVERIES",
    )


def _timeout_findings(app: Any, queues: list[_Queue]) -> Iterator[Finding]:
    known = [queue for queue in queues if queue.timeout_s is not None]
    for queue in known:
        yield fine("broker limits", f"queue {queue.name}: consumer_timeout {queue.timeout_s:g} s")
    usual = "" if len(known) == len(queues) else "consumer_timeout of rabbitmq.conf cannot be read by a client"
    least_s = min([queue.timeout_s or _DEFAULT_TIMEOUT_S for queue in queues], default=_DEFAULT_TIMEOUT_S)
    long = sorted(task.name for task in late_tasks(app) if (time_limit_s(app, task) or 0) >= least_s)
    if long:
        why = f"{usual}; with its default of {least_s:g} s" if usual else f"with {least_s:g} s"
        yield warning(
            "broker limits",
            f"{why} the broker delivers again what a worker holds while one of these runs: {named(long)}",
            "set consumer_timeout in rabbitmq.conf above their time limits, as deploy/rabbitmq/rabbitmq.conf does",
        )
    elif usual:
        yield fine("broker limits", f"{usual}; {_DEFAULT_TIMEOUT_S:g} s unless it says otherwise")


class _Management:
    """RabbitMQ's management API; after the first failure it is not asked again."""

    def __init__(self, connection: Any, url: str) -> None:
        scheme, port = ("https", 15671) if connection.ssl else ("http", 15672)
        given = urlsplit(url or f"{scheme}://{connection.hostname}:{port}")
        host = given.netloc.rpartition("@")[2]
        self._base = f"{given.scheme}://{host}{given.path.rstrip('/')}"
        self._vhost = quote(connection.virtual_host or "/", safe="")
        login = f"{given.username or connection.userid}:{given.password or connection.password}"
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        self.error = ""

    def queue(self, name: str) -> dict[str, Any]:
        """Return what it says of a queue; nothing where it does not answer, or knows no such queue."""
        if self.error:
            return {}
        url = f"{self._base}/api/queues/{self._vhost}/{quote(name, safe='')}"
        try:
            request = urllib.request.Request(url, headers=self._headers)
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                found = json.load(answer)
        except Exception as exc:
            if getattr(exc, "code", None) != 404:
                self.error = f"{redacted(self._base)} does not answer: {told(exc)}"
            return {}
        return found if isinstance(found, dict) else {}
