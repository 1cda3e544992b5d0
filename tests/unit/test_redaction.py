"""What a URL shows of itself, whether it can be parsed or not."""

import pytest

from asyncworker.redaction import redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@h:6379/1", "redis://:***@h:6379/1"),
        ("amqp://u:s3cret@h//", "amqp://u:***@h//"),
        ("amqp://u:s3cr/et?s3c@ret@h//", "amqp://u:***@h//"),
        ("postgresql+asyncpg://u:s3cret@h:port/d", "postgresql+asyncpg://u:***@h:port/d"),
        ("postgresql+asyncpg//u:s3cret@h/d", ":***@h/d"),
        ("postgresql://u@h/d?ssl=on&password=s3cret", "postgresql://u@h/d?ssl=on&password=***"),
        ("redis+socket:///run/x?virtual_host=0&password=s3cret", "redis+socket:///run/x?virtual_host=0&password=***"),
        ("redis://a:s3cret@h;redis://b:s3cret@i", "redis://a:***@h;redis://b:***@i"),
        ("s3://bucket/x?secret_access_key=s3cret", "s3://bucket/x?secret_access_key=***"),
        ("redis://h:6379/1", "redis://h:6379/1"),
        ("sqlite+aiosqlite:////srv/a@b/store.sqlite", "sqlite+aiosqlite:////srv/a@b/store.sqlite"),
        ("/srv/a@b", "/srv/a@b"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "s3c" not in redacted(url)
