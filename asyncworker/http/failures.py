"""Translation of failed requests into asyncworker's errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from asyncworker.errors import (
    HTTPCertificateError,
    HTTPConnectError,
    HTTPConnectionLost,
    HTTPError,
    HTTPStatusError,
    HTTPTimeout,
    HTTPTooLarge,
)
from asyncworker.http.retries import retry_after_s
from asyncworker.http.shown import shown

__all__ = ["failures_of", "refusal", "translated"]

#: Of an answer that is an error: what is read, and what is quoted.
_READ_BYTES = 4096
_QUOTED = 200

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
#: Our own fault, however often it is sent.
_CANNOT_BE_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@contextmanager
def translated(request: httpx.Request, timeout_s: float) -> Iterator[None]:
    """Raise httpx's errors, and the end of our own time-out, as ours."""
    name = f"{request.method} {shown(request.url)}"
    where = {"method": request.method, "url": shown(request.url)}
    try:
        yield
    except _NEVER_SENT as exc:
        kind = HTTPCertificateError if _is_certificate(exc) else HTTPConnectError
        raise kind(f"{name}: no connection: {_said(exc)}", **where) from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise HTTPTimeout(f"{name}: no whole answer within {timeout_s:g} s", **where) from exc
    except _CANNOT_BE_SENT as exc:
        raise HTTPError(f"{name}: {_said(exc)}", **where) from exc
    except (httpx.TransportError, httpx.StreamError) as exc:
        raise HTTPConnectionLost(f"{name}: the connection ended before the answer did: {_said(exc)}", **where) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise HTTPError(f"{name}: {_said(exc)}", **where) from exc


@contextmanager
def failures_of(response: httpx.Response, timeout_s: float) -> Iterator[None]:
    """Do the same for what goes wrong while that answer is read; whatever else is raised is the caller's own."""
    try:
        yield
    except httpx.RequestError as exc:
        if _request_of(exc) is not response.request:
            raise
        with translated(response.request, timeout_s):
            raise


def _request_of(error: httpx.RequestError) -> httpx.Request | None:
    try:
        return error.request
    except RuntimeError:  # it was raised without one
        return None


def _is_certificate(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def refusal(response: httpx.Response) -> HTTPStatusError:
    """Make the error of an answer that is one; quotes the beginning of what the server says."""
    body = b""
    # Whatever is wrong with what it says, the status is known, and decides.
    with suppress(httpx.DecodingError, HTTPTooLarge):
        async for piece in response.aiter_bytes(_READ_BYTES):
            body += piece
            if len(body) >= _READ_BYTES:
                break
    quoted = " ".join(body.decode(response.encoding or "utf-8", "replace").split())[:_QUOTED]
    request = response.request
    status = f"{response.status_code} {response.reason_phrase}".strip()
    return HTTPStatusError(
        f"{request.method} {shown(request.url)}: {status}" + (f": {quoted}" if quoted else ""),
        method=request.method,
        url=shown(request.url),
        status=response.status_code,
        retry_after_s=retry_after_s(response),
    )
