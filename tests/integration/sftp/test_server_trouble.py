"""What servers refuse, lose or hold up in the middle of whole folders: an error for that file, and the rest goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from asyncworker.errors import SFTPFileNotFound, SFTPPermissionDenied
from asyncworker.sftp import BulkReport, FileResult, download, upload
from tests.integration.sftp.conftest import Folders, behind, configured, grown, in_mid_run, pool_of
from tests.integration.sftp.test_connections import check, make_files
from tests.integration.sftp.test_download import MEGABYTE, make_tree, parts, some_files, tree
from tests.integration.sftp.test_get import settled
from tests.integration.sftp.test_robust import logins_of
from tests.integration.sftp.test_transports import EVERY_WAY, pool_through
from tests.servers import sftp_wire as wire
from tests.servers.proxy import running_proxy
from tests.servers.sftp import SFTPServer, running_sftp_server
from tests.servers.sftp_scripted import OPEN, Request, Scripted
from tests.servers.sshd import Sshd

Server = Sshd | SFTPServer


# -- what may not be done --------------------------------------------------------------------------------------------


@pytest.fixture
def forbidden(tmp_path: Path) -> tuple[Path, Path]:
    """A file that this user may not read, and a folder that it may not write to; root finds both in ``/sys`` only."""
    if os.geteuid() != 0:
        secret, closed = tmp_path / "secret", tmp_path / "closed"
        secret.write_bytes(b"x" * 100)
        secret.chmod(0)
        closed.mkdir(mode=0o500)
    else:
        secret, closed = Path("/sys/bus/platform/drivers_probe"), Path("/sys/kernel")
    for path, flags in ((secret, os.O_RDONLY), (closed / "a", os.O_WRONLY | os.O_CREAT)):
        try:
            os.close(os.open(path, flags))
        except OSError as error:
            if error.errno == errno.EACCES:
                continue
        pytest.skip(f"{path}: this user may do everything here")
    return secret, closed


async def test_a_file_that_may_not_be_read(any_server: Server, folders: Folders, forbidden: tuple[Path, Path]) -> None:
    secret, _ = forbidden
    make_tree(folders.remote, {f"{n}": b"x" * n for n in range(20)})
    (folders.remote / "secret").symlink_to(secret)
    async with pool_of(any_server) as pool:
        with pytest.raises(SFTPPermissionDenied, match=str(secret)):
            await pool.get(secret, folders.local / "a")
        report = await download(pool, folders.remote, folders.local, links="follow")
        assert await settled(pool)
    assert {Path(result.remote).name: type(result.error) for result in report.errors} == {
        "secret": SFTPPermissionDenied
    }
    assert set(folders.left()) == {f"{n}" for n in range(20)}


async def test_a_folder_that_may_not_be_written_to(
    any_server: Server, folders: Folders, forbidden: tuple[Path, Path]
) -> None:
    _, closed = forbidden
    make_tree(folders.local, {"small": b"x", "large": bytes(9 * MEGABYTE)})
    async with pool_of(any_server) as pool:
        with pytest.raises(SFTPPermissionDenied, match=str(closed)):
            await pool.put(folders.local / "small", closed / "a")
        report = await upload(pool, folders.local, closed, check_space=False)
        assert await settled(pool)
    assert {Path(result.remote).name: type(result.error) for result in report.errors} == {
        "small": SFTPPermissionDenied,
        "large": SFTPPermissionDenied,
    }


async def test_a_destination_that_may_not_be_written_to(
    any_server: Server, folders: Folders, forbidden: tuple[Path, Path]
) -> None:
    _, closed = forbidden
    make_tree(folders.remote, {"small": b"x", "medium": bytes(2 * MEGABYTE), "large": bytes(9 * MEGABYTE)})
    async with pool_of(any_server) as pool:
        report = await download(pool, folders.remote, closed)
        assert await settled(pool)
    assert {Path(result.local).name: type(result.error) for result in report.errors} == dict.fromkeys(
        ("small", "medium", "large"), PermissionError
    )


# -- what goes away --------------------------------------------------------------------------------------------------


async def test_small_files_that_vanish_after_they_are_listed(folders: Folders) -> None:
    files = {f"/in/{n}".encode(): b"x" for n in range(50)}
    gone = {path for path in files if path.endswith(b"7")}

    def bend(request: Request, answer: bytes) -> bytes:
        if request.kind == 17:  # STAT of the folder
            return wire.attrs(request.id, 0, 0o40755, 1)
        if request.kind == OPEN and request.text in gone:
            script.open_handles.remove(request.text)
            return wire.status(request.id, 2)
        return answer

    names = tuple(path[4:] for path in files)
    script = Scripted(files, listing=names, bend=bend)
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server) as pool:
            report = await download(pool, "/in", folders.local)
            assert await settled(pool)
    assert {os.fsencode(result.remote) for result in report.errors} == gone
    assert {type(result.error) for result in report.errors} == {SFTPFileNotFound}
    assert len(folders.left()) == len(files) - len(gone)


async def test_the_folder_on_the_server_is_removed_in_mid_run(any_server: Server, folders: Folders) -> None:
    goal = folders.remote / "goal"
    make_tree(folders.local, {f"{n}": b"x" * 2000 for n in range(300)} | {"large": bytes(40 * MEGABYTE)})
    with running_proxy(any_server.port) as proxy:
        async with pool_of(any_server, **behind(proxy, any_server)) as pool:
            job = asyncio.create_task(upload(pool, folders.local, goal))
            await in_mid_run(job, lambda: goal.is_dir() and any(goal.iterdir()))
            proxy.partition()
            goal.rename(folders.remote / "gone")  # at once, whatever is still on its way into it
            await asyncio.to_thread(shutil.rmtree, folders.remote / "gone", ignore_errors=True)
            assert not job.done()
            proxy.heal()
            report = await job
            assert await settled(pool)
    assert "large" in {Path(result.remote).name for result in report.errors}
    assert report.files_done + report.files_failed == report.files_found
    assert {type(result.error) for result in report.errors} == {SFTPFileNotFound}
    assert not goal.exists()


# -- what falls silent -----------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_an_upload_over_a_line_that_falls_silent(sshd: Sshd, folders: Folders, transport: str) -> None:
    files = some_files() | {"larger": random.Random(1).randbytes(64 * MEGABYTE)}
    make_tree(folders.local, files)
    with running_proxy(sshd.port) as proxy:
        options = behind(proxy, sshd) | {"keepalive_s": 1, "connect_timeout_s": 30}
        async with pool_through(transport, sshd, **options) as pool:
            job = asyncio.create_task(upload(pool, folders.local, folders.remote))
            await in_mid_run(job, lambda: grown(parts(folders.remote), 8 * MEGABYTE))
            proxy.forget()
            assert not job.done()
            logins = await logins_of(sshd)
            async with asyncio.timeout(240):
                report = await job
            assert await settled(pool)
            assert await logins_of(sshd) > logins  # the silent ones were given up
            report.raise_for_errors()
            async with asyncio.timeout(120):  # what the silent ones left is removed behind them
                while parts(folders.remote):
                    await asyncio.sleep(0.01)
    assert tree(folders.remote) == files


# -- what is limited -------------------------------------------------------------------------------------------------


@EVERY_WAY
@configured("MaxStartups 10:30:100")
async def test_startups_as_they_are_by_default(own_sshd: Sshd, folders: Folders, transport: str) -> None:
    """One pool stays below; several that begin together are dropped in part, try again, and get all."""
    files = make_files(folders, 400)
    async with pool_through(transport, own_sshd, connections=24) as pool:
        await asyncio.gather(*(pool.get(path, folders.local / name) for name, path in files.items()))
    check(folders, files)
    assert "throttling" not in await asyncio.to_thread(own_sshd.log)


@configured("MaxStartups 10:30:100")
async def test_more_pools_than_the_server_lets_in_at_once(own_sshd: Sshd, folders: Folders) -> None:
    files = make_files(folders, 400)

    async def fetch(number: int) -> BulkReport:
        async with pool_of(own_sshd, connections=8) as pool:
            return await download(pool, folders.remote, folders.local / f"{number}")

    reports = await asyncio.gather(*(fetch(number) for number in range(10)))
    assert [report.files_done for report in reports] == [len(files)] * 10
    assert "throttling" in await asyncio.to_thread(own_sshd.log)


async def test_sixty_four_handles_and_no_more(folders: Folders) -> None:
    """A server that names that limit and keeps it: an OPEN beyond is refused."""
    files = {f"/{n}".encode(): random.Random(n).randbytes(700) for n in range(500)}
    most = 0

    def bend(request: Request, answer: bytes) -> bytes:
        nonlocal most
        if request.kind == 200:
            return wire.limits(request.id, 262_144, 32_768, 32_768, 64)
        most = max(most, len(script.open_handles))
        if request.kind == OPEN and len(script.open_handles) > 64:
            script.open_handles.remove(request.text)
            return wire.status(request.id, 4)
        return answer

    script = Scripted(files, bend=bend, greeting=wire.version(3, (b"limits@openssh.com", b"1")))
    with running_sftp_server(folders.remote / "server", raw=script) as server:
        async with pool_of(server, connections=1) as pool:
            results: list[FileResult] = []
            pairs = [(path.decode(), folders.local / path.decode()[1:]) for path in files]
            async for result in pool.get_many(pairs):
                results.append(result)
            assert await settled(pool)
    assert all(result.ok for result in results)
    assert 32 < most <= 64
    assert script.open_handles == []
    assert len(folders.left()) == len(files)
