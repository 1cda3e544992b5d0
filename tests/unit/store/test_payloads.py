"""Payloads: whole or not there, proved when they are read, named in every error; in a folder and through fsspec."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from asyncworker.errors import PayloadError, SettingsError
from asyncworker.store import Payload, Payloads

DIGEST = "ab" * 32


@pytest.fixture(params=["{}", "file://{}", "local://{}", "memory://{}"])
def payloads(request: pytest.FixtureRequest, tmp_path: Path) -> Payloads:
    return Payloads(request.param.format(tmp_path / "payloads"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_put_is_got(payloads: Payloads) -> None:
    body = os.urandom(100_000)
    payload = payloads.put_source(body)
    assert payloads.get(payload) == body
    assert (payload.size_bytes, payload.name.startswith("sources/")) == (100_000, True)
    payloads.touch(payload)
    result = payloads.put_result("../any run/id", b"r" * 10)
    assert payloads.get(result) == b"r" * 10


def test_the_same_source_is_there_once(payloads: Payloads) -> None:
    assert payloads.put_source(b"abc") == payloads.put_source(b"abc") != payloads.put_source(b"abd")


def test_what_is_not_there_names_itself_the_url_and_what_to_do(payloads: Payloads) -> None:
    with pytest.raises(PayloadError) as caught:
        payloads.get(Payload(f"sources/ab/{DIGEST}", 5, DIGEST))
    assert f"cannot read payload sources/ab/{DIGEST} at " in str(caught.value)
    assert payloads.url in str(caught.value)
    assert "set ASYNCWORKER_PAYLOAD_URL alike" in str(caught.value)


def test_a_runs_results_are_removed_alone(payloads: Payloads) -> None:
    source, mine, other = (
        payloads.put_source(b"s"),
        payloads.put_result("mine", b"1"),
        payloads.put_result("other", b"1"),
    )
    payloads.remove_results("mine")
    payloads.remove_results("nobody")
    assert (payloads.get(source), payloads.get(other)) == (b"s", b"1")
    with pytest.raises(PayloadError):
        payloads.get(mine)


def test_old_sources_are_swept(payloads: Payloads) -> None:
    source, result = payloads.put_source(b"s"), payloads.put_result("run", b"r")
    assert payloads.sweep_sources(keep_s=3600) == 0
    time.sleep(0.02)
    assert payloads.sweep_sources(keep_s=0.01) == 1
    assert payloads.get(result) == b"r"
    with pytest.raises(PayloadError):
        payloads.get(source)


@pytest.mark.parametrize("scheme", ["", "local://"])
@pytest.mark.promise("payload-is-checked")
def test_what_was_changed_is_not_trusted(tmp_path: Path, scheme: str) -> None:
    payloads = Payloads(f"{scheme}{tmp_path}")
    for damage in (b"abX", b"ab", b""):
        payload = payloads.put_source(b"abc")
        (path,) = files(tmp_path)
        path.write_bytes(damage)
        with pytest.raises(PayloadError, match="is not what was written: expected 3 bytes"):
            payloads.get(payload)
        path.unlink()


def test_a_source_that_is_sent_again_is_young_again(tmp_path: Path) -> None:
    payloads = Payloads(str(tmp_path))
    payload = payloads.put_source(b"abc")
    (path,) = files(tmp_path)
    for refresh in (lambda: payloads.put_source(b"abc"), lambda: payloads.touch(payload)):
        os.utime(path, (0, 0))
        refresh()
        assert payloads.sweep_sources(keep_s=3600) == 0


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = Payloads(str(tmp_path / "payloads"))

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PayloadError, match="No space left on device"):
        payloads.put_source(b"abc")
    assert files(tmp_path) == []


def test_a_folder_is_its_owners_alone(tmp_path: Path) -> None:
    Payloads(str(tmp_path / "payloads")).put_source(b"abc")
    assert (tmp_path / "payloads").stat().st_mode & 0o077 == 0


def test_a_url_that_nothing_can_use_says_so_without_its_password() -> None:
    with pytest.raises(SettingsError, match=r"payload_url is 'nosuch://user:\*\*\*@host/x'") as caught:
        Payloads("nosuch://user:secret@host/x").put_source(b"abc")
    assert "secret" not in str(caught.value)


def test_without_fsspec_a_folder_works_and_a_url_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "asyncworker.store.payloads_fsspec", raising=False)
    assert Payloads(str(tmp_path)).put_source(b"abc").size_bytes == 3
    with pytest.raises(SettingsError, match=r"pip install 'asyncworker\[payloads\]'"):
        Payloads("s3://bucket").put_source(b"abc")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "/dev/zero",
        "",
        ".",
        "sources",
        f"sources/../../{DIGEST}",
        f"sources/ab/../ab/{DIGEST}",
        f"sources/cd/{DIGEST}",
        f"sources/ab/{DIGEST.upper()}",
        f"sources/ab/{DIGEST}\n",
        f"sources/ab/{DIGEST}/..",
        f"results/x/{DIGEST}",
        f"results/{'0' * 32}/../../sources/ab/{DIGEST}",
        f"file:///sources/ab/{DIGEST}",
        f"sources/ab/{'cd' * 32}",
        "sources/ab/\0",
        "sources/ab/\udc80",
    ],
)
def test_a_name_that_was_not_given_here_is_not_opened(payloads: Payloads, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "payloads").mkdir()
    payload = Payload(name, 6, DIGEST)
    with pytest.raises(PayloadError, match="is not the name of a payload"):
        payloads.get(payload)
    with pytest.raises(PayloadError, match="is not the name of a payload"):
        payloads.touch(payload)


def test_links_folders_and_pipes_in_the_place_of_a_payload_are_not_followed(tmp_path: Path) -> None:
    payloads = Payloads(str(tmp_path / "payloads"))
    body = b"secret"
    payload = payloads.put_source(body)
    path = tmp_path / "payloads" / payload.name
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / path.name).write_bytes(body)

    path.unlink()
    path.symlink_to(outside / path.name)
    with pytest.raises(PayloadError):
        payloads.get(payload)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PayloadError, match="not a regular file"):
        payloads.get(payload)
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside)
    with pytest.raises(PayloadError, match="leads out of"):
        payloads.get(payload)


def test_a_file_that_has_grown_is_not_read_whole(payloads: Payloads) -> None:
    payload = payloads.put_source(b"x" * 10)
    with pytest.raises(PayloadError, match="found 6 bytes"):
        payloads.get(Payload(payload.name, 5, payload.sha256))
