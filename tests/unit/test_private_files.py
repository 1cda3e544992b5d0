"""Folders and files that only their owner may read, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncworker.cli.demo_folder import DemoFolder
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import EmbeddedServerError
from asyncworker.private_files import make_private, make_private_file, make_private_folder
from asyncworker.processes import Child
from asyncworker.store import Payloads, open_store
from asyncworker.worker.health import HealthFile


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> list[Path]:
    return [path for path in [folder, *folder.rglob("*")] if mode(path) & 0o077]


def test_all_folders_that_were_missing_are_private(tmp_path: Path, umask: int) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert [mode(tmp_path / name) for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_folder_that_was_there_is_its_makers_affair_unless_its_name_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    folder.chmod(0o755)
    make_private_folder(folder)
    assert mode(folder) == 0o755
    make_private_folder(folder, tighten=True)
    assert mode(folder) == 0o700


def test_a_file_is_private_and_one_that_was_not_is_taken_from_others(
    tmp_path: Path, umask: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a"
    make_private_file(path)
    assert (mode(path), caplog.records) == (0o600, [])
    path.chmod(0o644)
    make_private_file(path)
    assert mode(path) == 0o600
    assert caplog.records[0].getMessage() == f"{path}: others could read it; it is private now"


def test_devices_and_pipes_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").chmod(0o666)
    make_private(tmp_path / "pipe")
    make_private(tmp_path / "missing")
    assert mode(tmp_path / "pipe") == 0o666


@pytest.mark.promise("files-are-private")
async def test_the_store_is_private(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "state" / "store.sqlite"
    store = await open_store(f"sqlite+aiosqlite:///{path}")
    try:
        async with store.writing():
            assert len(list(path.parent.iterdir())) == 3  # with what SQLite puts beside it
            assert open_to_others(path.parent) == []
    finally:
        await store.close()


async def test_a_store_of_a_former_version_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await (await open_store(f"sqlite+aiosqlite:///{path}")).close()
    path.chmod(0o644)
    await (await open_store(f"sqlite+aiosqlite:///{path}")).close()
    assert mode(path) == 0o600


@pytest.mark.promise("files-are-private")
def test_payloads_are_private(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "payloads"
    Payloads(str(root)).put_result("run", b"value")
    Payloads(str(root)).put_source(b"value")
    assert open_to_others(root) == []


@pytest.mark.promise("files-are-private")
def test_the_embedded_server_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    before = os.umask(0)
    try:
        for _ in range(2):
            try:
                with EmbeddedServer(folder) as server:
                    assert server.ping()
                    names = {path.name for path in folder.rglob("*")}
                    assert {"valkey.log", "appendonlydir"} <= names
                    assert open_to_others(folder) == []
            except EmbeddedServerError as exc:
                pytest.skip(str(exc))
            for path in [folder, *folder.rglob("*")]:  # as a former version left it
                path.chmod(mode(path) | 0o044)
    finally:
        os.umask(before)


@pytest.mark.promise("files-are-private")
def test_the_log_of_a_child_is_private(tmp_path: Path, umask: int) -> None:
    with Child(["/bin/true"], log=tmp_path / "log") as child:
        assert child.wait(120) == 0
    assert mode(tmp_path / "log") == 0o600


def test_the_health_file_is_private(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "health"
    HealthFile(path, lag_s=lambda: 0, most_lag_s=1, in_flight=lambda: 0).beat()
    assert mode(path) == 0o600


def test_what_the_demo_makes_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = DemoFolder(tmp_path / "demo")
        with folder.held():
            folder.logs.mkdir()
            folder.opened_log.touch()
        assert open_to_others(folder.root) == []
        assert os.umask(0) == 0
    finally:
        os.umask(before)
