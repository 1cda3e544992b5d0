"""Files compared by digests that the server makes, where it makes any; else, and in doubt, by reading them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from asyncworker.sftp import BulkReport, SFTPPool, download, server_digests, upload
from tests.integration.sftp.conftest import Folders, behind, pool_of, pool_on
from tests.integration.sftp.test_get import settled
from tests.integration.sftp.test_same_files import Direction, write
from tests.servers.proxy import running_proxy
from tests.servers.sftp_hostile import FAILURE, PERMISSION_DENIED, UNSUPPORTED, Hostile, Request
from tests.servers.sshd import Sshd

SIZES = (0, 1, 255, 1000, 300_000, 3_000_000)
MEGABYTE = 1024 * 1024


@pytest.fixture(params=["down", "up"])
def direction(request: pytest.FixtureRequest) -> Direction:
    found: Direction = request.param
    return found


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def serving(folders: Folders, **switches: Any) -> Hostile:
    """A server and a local folder with the same files, of other times."""
    hostile = Hostile(**switches)
    for size in SIZES:
        hostile.tree.write(f"/in/{size}", content(size), mtime=1_500_000_000)
        write(folders.local / f"{size}", content(size), 1_600_000_000)
    return hostile


async def move(pool: SFTPPool, direction: Direction, remote: str | Path, local: Path) -> BulkReport:
    report = await (
        download(pool, remote, local, skip="checksum")
        if direction == "down"
        else upload(pool, local, remote, skip="checksum")
    )
    report.raise_for_errors()
    assert await settled(pool)
    return report


async def test_nothing_of_a_file_is_read_whose_digest_is_told(folders: Folders, direction: Direction) -> None:
    hostile = serving(folders)
    async with pool_on(hostile, folders.remote / "server") as pool:
        report = await move(pool, direction, "/in", folders.local)
    assert (report.files_done, report.files_skipped) == (0, len(SIZES))
    assert {request.path for request in hostile.of("READ")} <= {b"/in/0"}  # of no bytes, there is no range
    assert hostile.count("check-file-name") == len(SIZES) - 1


async def test_proftpd_is_asked_for_digests(proftpd: Sshd, folders: Folders, direction: Direction) -> None:
    made = content(9 * MEGABYTE)
    for name, local in {"same": made, "last": made[:-1] + b"?"}.items():
        write(folders.remote / name, made, 1_500_000_000)
        write(folders.local / name, local, 1_600_000_000)
    here = (folders.local / "last").read_bytes()
    with running_proxy(proftpd.port) as proxy:
        async with pool_of(proftpd, **behind(proxy, proftpd)) as pool:
            report = await move(pool, direction, folders.remote, folders.local)
        moved = proxy.from_server + proxy.to_server
    assert (report.files_done, report.files_skipped) == (1, 1)
    expected = made if direction == "down" else here
    assert (folders.remote / "last").read_bytes() == (folders.local / "last").read_bytes() == expected
    assert moved < 12 * MEGABYTE  # the one that differs, once


@pytest.mark.parametrize("place", [99_999, 100_000, 2_999_999])
async def test_ranges_end_at_the_first_that_differs(
    folders: Folders, direction: Direction, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_digests, "_RANGE_BYTES", 100_000)
    hostile = serving(folders)
    mine = bytearray(content(3_000_000))
    mine[place] ^= 1
    write(folders.local / "3000000", bytes(mine), 1_600_000_000)
    async with pool_on(hostile, folders.remote / "server") as pool:
        report = await move(pool, direction, "/in", folders.local)
    assert (report.files_done, report.files_skipped) == (1, len(SIZES) - 1)
    asked = [request for request in hostile.of("check-file-name") if request.path == b"/in/3000000"]
    assert [request.offset for request in asked] == list(range(0, place + 1, 100_000))
    expected = content(3_000_000) if direction == "down" else bytes(mine)
    assert (folders.local / "3000000").read_bytes() == hostile.tree.read("/in/3000000") == expected


async def test_a_file_that_has_grown_since_it_was_listed_differs(folders: Folders, direction: Direction) -> None:
    hostile = serving(folders)

    def grow(request: Request) -> None:
        if request.kind == "check-file-name" and request.path == b"/in/1000":
            hostile.tree.write("/in/1000", content(1000) + b"more")

    hostile.refuse_if = grow
    async with pool_on(hostile, folders.remote / "server") as pool:
        if direction == "down":
            report = await download(pool, "/in", folders.local, skip="checksum")
        else:
            report = await upload(pool, folders.local, "/in", skip="checksum")
    assert report.files_skipped == len(SIZES) - 1
    assert report.files_done + report.files_failed == 1


@pytest.mark.parametrize(
    ("switches", "asked"),
    [
        pytest.param({"without": ("check-file-name",)}, 1, id="unsupported"),
        pytest.param({"refuse": {"check-file-name": UNSUPPORTED}}, 1, id="unsupported-by-status"),
        pytest.param({"refuse": {"check-file-name": FAILURE}}, len(SIZES) - 1, id="failure"),
        pytest.param({"refuse": {"check-file-name": PERMISSION_DENIED}}, len(SIZES) - 1, id="denied"),
        pytest.param({"hang_up_if": lambda request: request.kind == "check-file-name"}, 1, id="hangs-up"),
        pytest.param({"hang": ("check-file-name",)}, 1, id="hangs"),
    ],
)
async def test_a_server_that_makes_no_digests_is_read(
    folders: Folders, direction: Direction, switches: dict[str, Any], asked: int
) -> None:
    hostile = serving(folders, **switches)
    write(folders.local / "1000", b"?" * 1000, 1_600_000_000)
    async with pool_on(hostile, folders.remote / "server", connections=1, timeout_s=5) as pool:
        report = await move(pool, direction, "/in", folders.local)
    assert (report.files_done, report.files_skipped) == (1, len(SIZES) - 1)
    assert (folders.local / "1000").read_bytes() == hostile.tree.read("/in/1000")
    # Those that were asked for together are all that may be asked for before the first answer.
    assert asked <= hostile.count("check-file-name") <= max(asked, len(SIZES) - 1)
    assert hostile.count("READ") >= len(SIZES) - 1


ODD = {
    "empty": b"",
    "no-name": hashlib.sha256(b"").digest(),
    "extension-alone": b"\0\0\0\x0acheck-file",
    "another-digest": b"\0\0\0\x0acheck-file\0\0\0\x03md5" + bytes(16),
    "too-short": b"\0\0\0\x0acheck-file\0\0\0\x06sha256" + bytes(31),
    "cut-off": b"\0\0\0\x0acheck-file\0\0\xff\xffsha256",
}


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
async def test_a_reply_of_another_form_is_no_digest(
    folders: Folders, direction: Direction, reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.servers import sftp_wire

    monkeypatch.setattr(sftp_wire, "digest", lambda number, *_: sftp_wire.packet(201, number.to_bytes(4) + reply))
    hostile = serving(folders)
    write(folders.local / "1000", b"?" * 1000, 1_600_000_000)
    async with pool_on(hostile, folders.remote / "server") as pool:
        report = await move(pool, direction, "/in", folders.local)
    assert (report.files_done, report.files_skipped) == (1, len(SIZES) - 1)
    assert len(hostile.sessions) == 1 or hostile.hung_up == 0
    assert (folders.local / "1000").read_bytes() == hostile.tree.read("/in/1000")
