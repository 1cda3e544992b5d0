"""What writes down everything that happens to a task: signals, hooks, request callbacks, notes of the bodies."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Task, current_task, signals
from celery.worker.request import Request

from tests.parity.app import FOLDER, LOG

__all__ = ["CountedRequest", "RecordedTask", "note", "shown"]

#: The log, once this process has written to it.
_fd: list[int] = []


def note(stream: str, task_id: str | None, root: str | None, attempt: int | None, what: str, **fields: Any) -> None:
    """Write down one thing that happened."""
    if not _fd:
        FOLDER.mkdir(exist_ok=True)
        _fd.append(os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    record = {"stream": stream, "id": task_id, "root": root, "attempt": attempt or 0, "what": what, "fields": fields}
    os.write(_fd[0], json.dumps(record, default=repr).encode() + b"\n")


def body_note(what: str, **fields: Any) -> None:
    """Write down something from a task's body."""
    request = current_task.request
    note("body", request.id, request.root_id, request.retries, what, **fields)


def shown(value: Any) -> str:
    """Return a value so that two sides can be compared."""
    if isinstance(value, BaseException):
        return f"{type(value).__module__}.{type(value).__qualname__}{value.args!r}"
    return repr(value)


# -- the task's hooks ----------------------------------------------------------------------------------------------


class RecordedTask(Task):
    """Base of all tasks on all sides."""

    abstract = True

    def _note(self, what: str, **fields: Any) -> None:
        request = self.request
        note("hooks", request.id, request.root_id, request.retries, what, task=self.name, **fields)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self._note("before_start", id=task_id == self.request.id, args=shown(args), kwargs=shown(kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._note("on_success", retval=shown(retval), args=shown(args), kwargs=shown(kwargs))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("on_failure", exc=shown(exc), args=shown(args), einfo=type(einfo).__name__)

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("on_retry", exc=shown(exc), args=shown(args), einfo=type(einfo).__name__)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("after_return", status=status, retval=shown(retval), einfo=type(einfo).__name__)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if os.environ.get("PARITY_ROLE") == "worker" and options.get("countdown") is not None:
            countdown = options["countdown"]
            jitter = getattr(self, "retry_jitter", False)
            self._note("sent", countdown=bool(0 <= countdown <= 2) if jitter else countdown, task_sent=self.name)
        return super().apply_async(args, kwargs, **options)


class CountedRequest(Request):
    """A request class of the user's own."""

    def _note(self, what: str, **fields: Any) -> None:
        retries = self.request_dict.get("retries")
        note("request", self.id, self.request_dict.get("root_id"), retries, what, **fields)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        self._note("on_accepted", pid=type(pid).__name__)
        super().on_accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        self._note("on_timeout", soft=soft, timeout=timeout)
        super().on_timeout(soft, timeout)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        failed, value, runtime = failed__retval__runtime
        self._note("on_success", failed=failed, value=type(value).__name__, runtime=type(runtime).__name__)
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_retry(self, exc_info: Any) -> None:
        self._note("on_retry", exc=type(exc_info.exception).__name__)
        super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        self._note("on_failure", exc=shown(exc_info.exception), return_ok=return_ok)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def acknowledge(self) -> None:
        self._note("acknowledge", already=self.acknowledged)
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        self._note("reject", already=self.acknowledged, requeue=requeue)
        super().reject(requeue)


# -- signals -------------------------------------------------------------------------------------------------------


def _sender(sender: Any) -> str:
    if isinstance(sender, Task):
        return str(sender.name)
    return sender if isinstance(sender, str) else type(sender).__name__


def _of_task(name: str) -> Any:
    def handler(sender: Any = None, task_id: Any = None, **fields: Any) -> None:
        request = sender.request
        told = {key: shown(fields[key]) for key in ("retval", "result", "exception", "args", "kwargs") if key in fields}
        told |= {key: str(fields[key]) for key in ("state",) if key in fields}
        told |= {"reason": shown(fields["reason"])} if "reason" in fields else {}
        if "einfo" in fields:
            told["einfo"] = type(fields["einfo"]).__name__
        # Sent from where the task is not running: its request is then not this one.
        own = task_id is None or request.id == task_id
        number = task_id or fields.get("request", request).id
        root = request.root_id if own else None
        note("signals", number, root, request.retries if own else 0, name, sender=_sender(sender), **told)

    return handler


def _of_message(name: str) -> Any:
    def handler(sender: Any = None, headers: Any = None, **fields: Any) -> None:
        told = {"eta": bool(headers.get("eta")), "expires": bool(headers.get("expires"))}
        told |= {"routing_key": fields.get("routing_key"), "ignore_result": headers.get("ignore_result")}
        told |= {"args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr"), "limit": headers["timelimit"]}
        note("publish", headers["id"], headers["root_id"], headers["retries"], name, sender=_sender(sender), **told)

    return handler


def _of_request(name: str) -> Any:
    def handler(sender: Any = None, request: Any = None, **fields: Any) -> None:
        told = {key: fields[key] for key in ("terminated", "signum", "expired") if key in fields}
        document = getattr(request, "request_dict", None) or vars(request)
        number = document.get("id")
        note("main", number, document.get("root_id"), document.get("retries"), name, sender=_sender(sender), **told)

    return handler


def _unknown(sender: Any = None, name: str = "", id: str = "", exc: Any = None, **_: Any) -> None:
    note("main", id, None, 0, "task_unknown", sender=_sender(sender), name=name, exc=type(exc).__name__)


def _rejected(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    number = (message.headers or {}).get("id") or message.properties.get("correlation_id")
    note("main", number, None, 0, "task_rejected", sender=_sender(sender), exc=type(exc).__name__)


def connect() -> None:
    """Listen to every signal of a task. In the worker only."""
    for name in ("prerun", "postrun", "success", "failure", "retry", "internal_error"):
        getattr(signals, f"task_{name}").connect(_of_task(f"task_{name}"), weak=False)
    for name in ("before_task_publish", "after_task_publish"):
        getattr(signals, name).connect(_of_message(name), weak=False)
    for name in ("received", "revoked"):
        getattr(signals, f"task_{name}").connect(_of_request(f"task_{name}"), weak=False)
    signals.task_unknown.connect(_unknown, weak=False)
    signals.task_rejected.connect(_rejected, weak=False)


if os.environ.get("PARITY_ROLE") == "worker":
    connect()
