from typing import Any

import pytest

from asyncworker.errors import SettingsError
from asyncworker.http.options import Options


def test_options_compare_by_value_and_keep_secrets() -> None:
    first = Options.of("https://example.com", token="hush", headers={"X-Key": "hush"})
    assert first == Options.of("https://example.com", token="hush", headers={"X-Key": "hush"})
    assert hash(first) != hash(Options.of("https://example.com", token="other"))
    assert "hush" not in repr(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "example.com"}, "base_url is 'example.com': expected http"),
        ({"base_url": "ftp://example.com"}, "expected http"),
        ({"base_url": "http://[::1"}, "base_url is"),
        ({"per_hosts": 1}, "option 'per_hosts' does not exist; known: .*per_host"),
        ({"per_host": 0}, "per_host is 0: a whole number of 1 or more"),
        ({"timeout_s": 0}, "timeout_s is 0: more than 0"),
        ({"backoff_s": -1}, "backoff_s is -1: 0 or more"),
        ({"token": "t", "auth": ("u", "p")}, "token and auth are both given"),
    ],
)
def test_what_is_not_allowed_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Options.of(**{"base_url": "https://example.com", **options})
