"""Options: checked, compared by value, silent about secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncworker import sftp
from asyncworker.errors import SettingsError
from asyncworker.sftp.options import Options


def test_secrets_are_not_shown() -> None:
    options = Options.of("h", password="hunter2", passphrase="hunter3")
    assert "hunter" not in repr(options)
    assert "hunter" not in repr(sftp.SFTPPool("h", password="hunter2"))


def test_equal_options_are_one_key_whatever_they_were_written_as() -> None:
    one = Options.of("h", client_keys="/k", known_hosts=Path("/kh"))
    other = Options.of("h", client_keys=[Path("/k")], known_hosts="/kh")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Options.of("h", client_keys="/k", known_hosts=None)


@pytest.mark.parametrize(
    "wrong",
    [{"port": 0}, {"port": 70000}, {"connections": 0}, {"in_flight": 0}, {"connect_timeout_s": 0}, {"colour": "red"}],
)
def test_a_wrong_option_names_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Options.of("h", **wrong)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b", "a\n"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(SettingsError):
        Options.of(host)


async def test_one_pool_for_a_loop_and_options() -> None:
    first = await sftp.pool("h", port=1)
    assert await sftp.pool("h", port=1) is first
    assert await sftp.pool("h", port=2) is not first
