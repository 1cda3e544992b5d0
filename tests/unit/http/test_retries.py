from datetime import UTC, datetime

import httpx
import pytest

from asyncworker.http.retries import retry_after_s

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT", "Date": "Thu, 01 Jan 2026 12:00:20 GMT"}, 10.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT", "Date": "rubbish"}, 30.0),
        ({"Retry-After": "Thu, 99 Jan 2026 12:00:30 GMT"}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(httpx.Response(429, headers=headers), NOW) == expected
