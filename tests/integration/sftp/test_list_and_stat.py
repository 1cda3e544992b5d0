"""Folders and attributes."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path

import pytest

from asyncworker.errors import SFTPError, SFTPFileNotFound, SFTPNameError
from tests.integration.sftp.conftest import Folders, pool_of
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


async def test_every_entry_with_its_attributes(each_way: Server, folders: Folders) -> None:
    for number in range(1500):
        folders.make(f"{number}.xml", b"x" * number)
    (folders.remote / "sub").mkdir()
    (folders.remote / "link").symlink_to("0.xml")
    os.utime(folders.remote / "7.xml", (1_400_000_000, 1_400_000_000))
    async with pool_of(each_way) as pool:
        entries = {entry.name: entry async for entry in pool.list(folders.remote)}
        assert await settled(pool)
    assert entries.keys() == {path.name for path in folders.remote.iterdir()}
    assert entries["7.xml"].path == str(folders.remote / "7.xml")
    assert (entries["7.xml"].size_bytes, entries["7.xml"].mtime) == (7, 1_400_000_000)
    assert entries["7.xml"].is_file
    assert entries["sub"].is_dir
    assert stat.S_ISLNK(entries["link"].mode or 0)


@pytest.mark.parametrize("written", ["{}", "{}/"])
async def test_paths_are_joined_with_one_slash(server: Server, folders: Folders, written: str) -> None:
    path = folders.make("a", b"")
    async with pool_of(server) as pool:
        assert [entry.path async for entry in pool.list(written.format(folders.remote))] == [path]


async def test_an_empty_folder_and_a_missing_one(server: Server, folders: Folders) -> None:
    async with pool_of(server) as pool:
        assert [entry async for entry in pool.list(folders.remote)] == []
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            _ = [entry async for entry in pool.list("/not/there")]
        with pytest.raises(SFTPError):
            _ = [entry async for entry in pool.list(folders.make("file", b""))]
        assert await settled(pool)
        assert pool._connections.count == 1


async def test_a_listing_that_is_left_early_gives_its_handle_back(server: Server, folders: Folders) -> None:
    for number in range(1000):
        folders.make(str(number), b"")
    async with pool_of(server) as pool:
        for _ in range(20):
            entries = pool.list(folders.remote)
            async for _entry in entries:
                break
            await entries.aclose()
        assert await settled(pool)


async def test_its_place_is_given_to_those_who_wait_for_it(any_server: Server, folders: Folders) -> None:
    """More names than are read ahead, and no second place: the loop's body waits for the one that its listing has."""
    for number in range(5000):
        folders.make(str(number), b"x")
    inner = folders.remote / "inner"
    inner.mkdir()
    (inner / "a").write_bytes(b"x")
    seen = []
    async with asyncio.timeout(120), pool_of(any_server, connections=1, in_flight=1) as pool:
        async for entry in pool.list(folders.remote):
            seen.append(entry.name)
            if len(seen) % 500 == 1 and entry.is_file:
                await pool.get(entry.path, folders.local / entry.name)
                assert [deeper.name async for deeper in pool.list(inner)] == ["a"]
        assert await settled(pool)
        assert pool._connections._held == set()
    assert sorted(seen) == sorted(path.name for path in folders.remote.iterdir())
    assert len(folders.left()) > 8


async def test_a_listing_that_nobody_hurries_is_not_read_ahead_for_ever(server: Server, folders: Folders) -> None:
    for number in range(5000):
        folders.make(str(number), b"x")
    async with pool_of(server, connections=1, in_flight=2) as pool:
        entries = pool.list(folders.remote)
        first = await anext(entries)
        await asyncio.gather(*(pool.get(first.path, folders.local / str(n)) for n in range(200)))
        (listing,) = pool._connections._held
        assert len(listing._batches) <= 32  # type: ignore[attr-defined]
        assert not listing._finished  # type: ignore[attr-defined]
        await entries.aclose()
        assert await settled(pool)


async def test_stat(server: Server, folders: Folders) -> None:
    path = folders.make("a", b"12345")
    Path(path).chmod(0o640)
    os.utime(path, (1_400_000_000, 1_400_000_000))
    (folders.remote / "link").symlink_to("a")
    async with pool_of(server) as pool:
        attributes = await pool.stat(path)
        assert (attributes.size_bytes, attributes.mtime) == (5, 1_400_000_000)
        assert stat.S_IMODE(attributes.mode or 0) == 0o640
        assert attributes.is_file
        assert (await pool.stat(folders.remote)).is_dir
        assert (await pool.stat(folders.remote / "link")).is_file
        link = await pool.stat(folders.remote / "link", follow_links=False)
        assert stat.S_ISLNK(link.mode or 0)
        with pytest.raises(SFTPFileNotFound, match="/not/there"):
            await pool.stat("/not/there")


HOSTILE = [b"../../etc/cron.d/x", b"/etc/passwd", b"a\\b", b"a\nb", b"", b"x" * 256]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_stops_the_listing(tmp_path: Path, name: bytes) -> None:
    script = Scripted(listing=(b".", b"..", b"good", name, b"after"))
    with running_sftp_server(tmp_path, raw=script) as server:
        async with pool_of(server) as pool:
            seen = []
            with pytest.raises(SFTPNameError, match="/in"):
                async for entry in pool.list("/in"):
                    seen.append(entry.name)
            assert seen == ["good"]
            assert await settled(pool)
            assert script.open_handles == []


async def test_hostile_names_may_be_skipped_and_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = Scripted(listing=(b"good", *HOSTILE, b"after"))
    with running_sftp_server(tmp_path, raw=script) as server, caplog.at_level(logging.WARNING, "asyncworker"):
        async with pool_of(server) as pool:
            entries = [entry.name async for entry in pool.list("/in", bad_names="skip")]
    assert entries == ["good", "after"]
    assert len([record for record in caplog.records if "refused the name" in record.message]) == len(HOSTILE)
