"""Checks of a task's message, before anything is built from it."""

from __future__ import annotations

import math
from typing import Any

from asyncworker.worker.message import is_text

__all__ = ["objection"]

#: The longest id of a task, in characters: what the store's indexes hold.
LONGEST_ID = 500
#: The longest time limit, about thirty years: timers take no more.
LONGEST_LIMIT_S = 1e9
MOST_RETRIES = 1 << 31

_NO_LIMITS = [None, None]

#: What a worker keeps of a running task where Celery keeps the headers of its message.
_OF_THE_WORKER = frozenset({"_asyncworker_entered", "_children", "_protected"})


def objection(message: Any) -> str | None:
    """Return what is wrong with a message of a task; ``None``: nothing, or something that Celery reports itself.

    Args:
        message: One of kombu's, of Celery's first or second protocol.
    """
    try:
        payload = message.payload
    except Exception:
        return None  # Celery finds that, too
    headers = message.headers
    if not isinstance(headers, dict):
        return f"headers are {type(headers).__name__}, expected an object"
    if "task" not in headers:
        first = isinstance(payload, dict) and "task" in payload
        return (_of_fields(payload) or _of_call(payload.get("args", ()), payload.get("kwargs", {}))) if first else None
    if isinstance(payload, dict) and "args" in payload:
        # Both protocols at once: the headers go before.
        return _of_fields({**payload, **headers}) or _of_call(payload["args"], payload.get("kwargs", {}))
    return _of_fields(headers) or _of_body(payload)


def _of_body(body: Any) -> str | None:
    if not isinstance(body, (list, tuple)) or len(body) != 3:
        return "the body is not a list of arguments, keyword arguments and what follows"
    args, kwargs, embed = body
    if embed is not None and not isinstance(embed, dict):
        return f"what follows the task is {type(embed).__name__}, expected an object"
    return _of_call(args, kwargs) or (_of_chain(embed["chain"]) if embed and embed.get("chain") else None)


def _of_chain(chain: Any) -> str | None:
    # A failure is passed on along it: what cannot be read there would take the failure's outcome with it.
    if not isinstance(chain, list | tuple) or not all(isinstance(each, dict) for each in chain):
        return "the chain is not a list of tasks"
    if not all(isinstance(each.get("options") or {}, dict) for each in chain):
        return "the options of a task in the chain are not an object"
    return None


def _of_call(args: Any, kwargs: Any) -> str | None:
    if not isinstance(args, (list, tuple)):
        return f"args are {type(args).__name__}, expected a list"
    if not isinstance(kwargs, dict) or (kwargs and not all(isinstance(name, str) for name in kwargs)):
        return f"kwargs are {type(kwargs).__name__}, expected an object with names"
    return None


def _of_fields(fields: dict[str, Any]) -> str | None:
    if not is_text(fields.get("task")):
        return "task is not the name of one"
    if not is_text(fields.get("id")) or len(fields["id"]) > LONGEST_ID:
        return f"id is not text of 1 to {LONGEST_ID} characters"
    if not fields.keys().isdisjoint(_OF_THE_WORKER):
        return f"{', '.join(sorted(fields.keys() & _OF_THE_WORKER))} cannot be in a message"
    for name in ("root_id", "parent_id", "group", "shadow"):
        if (value := fields.get(name)) is not None and not isinstance(value, str):
            return f"{name} is {type(value).__name__}, expected text"
    retries = fields.get("retries")
    if retries is not None and not (isinstance(retries, int) and 0 <= retries <= MOST_RETRIES):
        return f"retries is {retries!r:.80}, expected a number"
    return _of_limits(fields.get("timelimit")) or _of_stamps(fields)


def _of_limits(limits: Any) -> str | None:
    if not limits or limits == _NO_LIMITS:
        return None
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(map(_is_limit, limits)):
        return f"timelimit is {limits!r:.80}, expected two numbers of seconds, or null"
    return None


def _is_limit(limit: Any) -> bool:
    if limit is None:
        return True
    return isinstance(limit, int | float) and math.isfinite(limit) and 0 <= limit <= LONGEST_LIMIT_S


def _of_stamps(fields: dict[str, Any]) -> str | None:
    stamps, names = fields.get("stamps"), fields.get("stamped_headers")
    if stamps is not None and not isinstance(stamps, dict):
        return f"stamps are {type(stamps).__name__}, expected an object"
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        return "stamped_headers is not a list of names"
    return None
