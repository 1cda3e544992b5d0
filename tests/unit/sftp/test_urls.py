"""What a URL says, and what is refused."""

from __future__ import annotations

import pytest

from asyncworker.errors import SettingsError
from asyncworker.sftp import SFTPPool, download, upload
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.options import Options
from asyncworker.sftp.urls import Location, is_url, parse_url

URLS = {
    "sftp://host": Location("host", None, None, ""),
    "SFTP://host/": Location("host", None, None, "/"),
    "sftp://host:2222/in": Location("host", 2222, None, "/in"),
    "sftp://host:/in": Location("host", None, None, "/in"),
    "sftp://user@host/in/*.xml": Location("host", None, "user", "/in/*.xml"),
    "sftp://user%40corp@host/a%20b%25": Location("host", None, "user@corp", "/a b%"),
    "sftp://me@corp@host/": Location("host", None, "me@corp", "/"),
    "sftp://[::1]:22/x": Location("::1", 22, None, "/x"),
    "sftp://[fe80::1]": Location("fe80::1", None, None, ""),
    "sftp://host/~": Location("host", None, None, "."),
    "sftp://host/~/": Location("host", None, None, "."),
    "sftp://host/~/in/a": Location("host", None, None, "in/a"),
    "sftp://host/~other": Location("host", None, None, "/~other"),
    "sftp://host/a?b#c;d@e:f": Location("host", None, None, "/a?b#c;d@e:f"),
    "sftp://host/100%.xml%zz": Location("host", None, None, "/100%.xml%zz"),
    "sftp://host/a+b": Location("host", None, None, "/a+b"),
    "sftp://host/%2Fetc%2f": Location("host", None, None, "//etc/"),
    "sftp://host/üöä": Location("host", None, None, "/üöä"),
    "sftp://host/%C3%BC": Location("host", None, None, "/ü"),
}


@pytest.mark.parametrize("url", URLS)
def test_its_pieces(url: str) -> None:
    assert is_url(url)
    assert parse_url(url) == URLS[url]


def test_bytes_that_are_not_utf8_lead_to_the_same_file() -> None:
    assert remote_bytes(parse_url("sftp://host/caf%E9").path) == b"/caf\xe9"


BAD = [
    "http://host/", "://host/", "sftp:///in", "sftp://user@/in", "sftp://@host/", "sftp://host:port/", "sftp://host:0/",
    "sftp://host:65536/", "sftp://host:-1/", "sftp://host?x", "sftp://host#x", "sftp://[::1/x", "sftp://[::1]x/",
    "sftp://::1/x", "sftp://user;fingerprint=x@host/", "sftp://ho%2Fst:1:2/",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_what_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="sftp://user@host:port/path"):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "sftp://user:hunter2@host/in",
        "sftp://user:hunter2@host:99999/in",
        "sftp://:hunter2@host/",
        "sftp://user:@host/hunter2",
        "http://user:hunter2@host/",
        "sftp://user:hunter2@/",
        "sftp://user:hunt@er2@host/",
        "sftp://user:hunter2;x=y@[::1/",
    ],
)
@pytest.mark.promise("sftp-password-in-a-url-is-refused")
def test_a_password_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="password_env") as caught:
        parse_url(url)
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize("url", ["user:hunter2@host/in", "user:hunter2@host://in", "hunter2", "user:hunter2"])
def test_what_has_no_scheme_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="this is no URL of an SFTP server: sftp://user@host:port/path") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["user@host", "user:hunter2@host"])
def test_a_host_with_a_user_in_it_is_refused_and_not_shown(host: str) -> None:
    with pytest.raises(SettingsError, match="username=") as caught:
        SFTPPool(host)
    assert "hunter2" not in str(caught.value)


def test_a_password_with_a_slash_in_it_is_not_shown_either() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url("sftp://user:hunter2/3@host/in")
    assert "hunter2" not in str(caught.value)


def test_a_pool_of_a_url() -> None:
    assert Options.of("sftp://u@host:2222") == Options.of("host", port=2222, username="u")
    assert Options.of("sftp://u@host/", port=22).port == 22
    assert SFTPPool("sftp://u@host:2222", username="u", port=2222).options.port == 2222
    assert SFTPPool("host").options.port == 22
    with pytest.raises(SettingsError, match="/in"):
        SFTPPool("sftp://host/in")
    with pytest.raises(SettingsError, match="2222"):
        SFTPPool("sftp://host:2222", port=2223)
    with pytest.raises(SettingsError, match="other"):
        Options.of("sftp://u@host", username="other")


@pytest.mark.parametrize("move", [download, upload])
async def test_one_remote_path_and_no_second_one(move: object) -> None:
    for arguments, told in [
        (("host", "/a"), "remote path is needed"),
        (("sftp://host", "/a"), "remote path is needed"),
        (("sftp://host/in", "/a", "/b"), "two remote paths"),
    ]:
        with pytest.raises(SettingsError, match=told):
            await move(*arguments)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["box:/in", "user@box:in", "user:secret@box"])
def test_a_path_as_scp_writes_it_is_refused_with_the_url_that_is_meant(text: str) -> None:
    with pytest.raises(SettingsError, match=r"host:/path is sftp://host/path") as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
