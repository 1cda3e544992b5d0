"""Rules for retries: which requests are retried, and after how long."""

from __future__ import annotations

import asyncio
import email.utils
from datetime import UTC, datetime
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from asyncworker.errors import HTTPCertificateError, HTTPConnectError, HTTPConnectionLost, HTTPStatusError, HTTPTimeout
from asyncworker.http.options import Options

__all__ = ["IDEMPOTENT", "can_be_sent_again", "retry_after_s", "retrying"]

#: RFC 9110, 9.2.2: done twice, they have the effect of once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: What may be otherwise in a moment; a 501 will not.
_STATUS = frozenset({429, 500, 502, 503, 504})


def retrying(options: Options, *, idempotent: bool, repeatable: bool) -> AsyncRetrying:
    """Make what runs the attempts of one request.

    Args:
        options: How often, and how long between.
        idempotent: Whether the request may arrive twice.
        repeatable: Whether its body can be sent twice.
    """

    def again(error: BaseException) -> bool:
        if isinstance(error, HTTPConnectError):  # it was never sent
            return not isinstance(error, HTTPCertificateError)
        if isinstance(error, HTTPStatusError):
            asked_s = error.retry_after_s or 0.0
            return idempotent and error.status in _STATUS and asked_s <= options.most_wait_s
        return idempotent and isinstance(error, HTTPConnectionLost | HTTPTimeout)

    backoff = wait_random_exponential(multiplier=options.backoff_s, max=options.most_wait_s)

    def wait_s(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = getattr(error, "retry_after_s", None)
        # Never sooner than asked; the jitter keeps those who were told the same apart.
        return min(options.most_wait_s, (asked_s or 0.0) + backoff(state)) if asked_s is not None else backoff(state)

    return AsyncRetrying(
        retry=retry_if_exception(again),
        wait=wait_s,
        stop=stop_after_attempt(options.attempts if repeatable else 1),
        sleep=asyncio.sleep,
        reraise=True,
    )


def can_be_sent_again(arguments: dict[str, Any]) -> bool:
    """Tell whether a request with those arguments of httpx's has a body that is still there after it was sent."""
    return arguments.get("files") is None and isinstance(arguments.get("content"), bytes | str | None)


def retry_after_s(response: httpx.Response, now: datetime | None = None) -> float | None:
    """Return how many seconds the server asks to wait; ``None`` where it does not, or not in words of RFC 9110, 10.2.3.

    A date is taken by the server's own clock, where the answer carries its time.
    """
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked)
    at = _date(asked)
    if at is None:
        return None
    here = _date(response.headers.get("Date", "")) or now or datetime.now(UTC)
    return max(0.0, (at - here).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
