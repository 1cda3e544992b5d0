from typing import Any

import pytest

from asyncworker.errors import SettingsError
from asyncworker.sql.options import Options


def test_options_compare_by_value_and_keep_the_password() -> None:
    first = Options.of("postgresql://u:hush@h/x", connections=5)
    assert first == Options.of("postgresql+asyncpg://u:hush@h/x", connections=5)
    assert hash(first) == hash(Options.of("postgresql://u:hush@h/x", connections=5))
    assert first != Options.of("postgresql://u:other@h/x", connections=5)
    assert "hush" not in repr(first) + first.shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "no url"}, "SQL url is not a database URL"),
        ({"url": "sqlite://"}, "each connection would have its own; give it a file"),
        ({"pool": 3}, "SQL option 'pool' does not exist; known: .*connections"),
        ({"connections": 0}, "SQL connections is 0: a whole number of 1 or more"),
        ({"wait_s": 0}, "SQL wait_s is 0: more than 0"),
    ],
)
def test_what_is_not_allowed_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Options.of(**{"url": "postgresql://h/x", **options})
