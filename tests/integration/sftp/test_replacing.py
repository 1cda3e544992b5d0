"""A file that is replaced is never lost: where the server refuses the new one, the old one is there, or is named."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyncworker.errors import SFTPError, SFTPPermissionDenied
from asyncworker.sftp import SFTPPool, upload
from asyncworker.sftp.temporary_names import Aside, is_ours, parse
from tests.integration.sftp.conftest import pool_of
from tests.integration.sftp.test_download import MEGABYTE
from tests.integration.sftp.test_get import settled
from tests.servers.sftp import running_sftp_server
from tests.servers.sftp_memory import DENIED, FAILURE, NO_SUCH_FILE, UNSUPPORTED, Memory, Node, Request

GOAL = b"/goal"
OLD = b"the only copy of the old one"
#: A code that servers of later versions send to clients of version 3 as well.
FILE_ALREADY_EXISTS = 11


@dataclass
class Scene:
    """A server without a rename that replaces, and a pool on it."""

    memory: Memory
    pool: SFTPPool
    folder: Path

    def local(self, size: int) -> Path:
        path = self.folder / "new"
        path.write_bytes(b"n" * size)
        return path

    async def left(self) -> list[str]:
        """What else is on the server, once every request was answered."""
        assert await settled(self.pool)
        return sorted(path.decode() for path in self.memory.nodes if path not in (b"/", GOAL))


@pytest.fixture
def memory() -> Memory:
    made = Memory(posix_rename=False)
    made.write(GOAL, OLD)
    return made


@pytest.fixture
async def scene(tmp_path: Path, memory: Memory) -> AsyncIterator[Scene]:
    with running_sftp_server(tmp_path / "server", raw=memory) as server:
        async with pool_of(server) as pool:
            yield Scene(memory, pool, tmp_path)


async def put(scene: Scene) -> None:
    await scene.pool.put(scene.local(100), "/goal")


async def put_many(scene: Scene) -> None:
    async for result in scene.pool.put_many([(scene.local(100), "/goal")]):
        if result.error is not None:
            raise result.error


async def upload_small(scene: Scene) -> None:
    await _raise(scene, 100)


async def upload_striped(scene: Scene) -> None:
    await _raise(scene, 9 * MEGABYTE)


async def _raise(scene: Scene, size: int) -> None:
    report = await upload(scene.pool, scene.local(size), "/goal", skip="never")
    for result in report.errors:
        assert result.error is not None
        raise result.error


async def rename(scene: Scene) -> None:
    scene.memory.write(b"/whole", b"n" * 100)
    await scene.pool.rename("/whole", "/goal", replace=True)


EVERY_WRITER = pytest.mark.parametrize("write", [put, put_many, upload_small, upload_striped, rename])
Write = Callable[[Scene], Awaitable[None]]


def into_goal(request: Request) -> bool:
    """Whether it is a rename of a new file to its name."""
    name = request.path.rpartition(b"/")[2].decode()
    aside = isinstance(parse(name), Aside)
    return request.name == "RENAME" and request.body[4:] == GOAL and not aside


def back(request: Request) -> bool:
    """Whether it is a rename of the old file to its name again."""
    aside = isinstance(parse(request.path.rpartition(b"/")[2].decode()), Aside)
    return request.name == "RENAME" and request.body[4:] == GOAL and aside


def source_kept(scene: Scene, write: Write) -> list[str]:
    """What ``rename`` was to move is the user's own; a temporary file of ours is not."""
    return ["/whole"] if write is rename else []


@EVERY_WRITER
async def test_the_old_file_is_replaced(scene: Scene, write: Write) -> None:
    await write(scene)
    assert set(scene.memory.read(GOAL) or b"") == set(b"n")
    assert await scene.left() == []


@EVERY_WRITER
@pytest.mark.parametrize("code", [DENIED, FAILURE, UNSUPPORTED, NO_SUCH_FILE, FILE_ALREADY_EXISTS])
async def test_a_server_that_refuses_every_rename_keeps_the_old_file(scene: Scene, write: Write, code: int) -> None:
    scene.memory.refuse = lambda request: code if request.name == "RENAME" else None
    with pytest.raises(SFTPError) as raised:
        await write(scene)
    assert scene.memory.read(GOAL) == OLD
    assert await scene.left() == source_kept(scene, write)
    if code != NO_SUCH_FILE:
        assert "no such file" not in str(raised.value)


@EVERY_WRITER
@pytest.mark.parametrize("code", [FAILURE, DENIED, UNSUPPORTED, NO_SUCH_FILE, FILE_ALREADY_EXISTS])
async def test_a_server_that_refuses_the_new_file_has_the_old_one_back(scene: Scene, write: Write, code: int) -> None:
    def refuse(request: Request) -> int | None:
        if not into_goal(request):
            return None
        return FAILURE if GOAL in scene.memory.nodes else code

    scene.memory.refuse = refuse
    with pytest.raises(SFTPError):
        await write(scene)
    assert scene.memory.read(GOAL) == OLD
    assert await scene.left() == source_kept(scene, write)


@EVERY_WRITER
async def test_what_cannot_be_put_back_is_kept_and_named(scene: Scene, write: Write) -> None:
    scene.memory.refuse = lambda request: FAILURE if into_goal(request) or back(request) else None
    with pytest.raises(SFTPError) as raised:
        await write(scene)
    left = await scene.left()
    (aside,) = [name for name in left if name not in source_kept(scene, write)]
    assert aside in str(raised.value)
    assert scene.memory.read(aside.encode()) == OLD


@EVERY_WRITER
async def test_an_old_file_that_cannot_be_removed_is_named_in_the_log(
    scene: Scene, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: Request) -> int | None:
        return DENIED if request.name == "REMOVE" else None

    scene.memory.refuse = refuse
    with caplog.at_level(logging.WARNING):
        await write(scene)
    assert set(scene.memory.read(GOAL) or b"") == set(b"n")
    (aside,) = await scene.left()
    assert aside in caplog.text
    assert is_ours(aside[1:])


@EVERY_WRITER
async def test_permission_denied_touches_nothing(scene: Scene, write: Write) -> None:
    scene.memory.refuse = lambda request: DENIED if request.name == "RENAME" else None
    with pytest.raises(SFTPPermissionDenied):
        await write(scene)
    assert scene.memory.count("RENAME") == 1
    assert GOAL not in {request.path for request in scene.memory.asked if request.name in ("REMOVE", "RENAME")}


@EVERY_WRITER
@pytest.mark.parametrize("code", [FAILURE, UNSUPPORTED, FILE_ALREADY_EXISTS])
async def test_without_an_old_file_the_error_is_that_of_the_rename(scene: Scene, write: Write, code: int) -> None:
    del scene.memory.nodes[GOAL]
    scene.memory.refuse = lambda request: code if request.name == "RENAME" else None
    with pytest.raises(SFTPError, match=f"status {code}"):
        await write(scene)
    assert await scene.left() == source_kept(scene, write)


@EVERY_WRITER
@pytest.mark.parametrize("told", [True, False])
async def test_a_folder_is_never_moved_aside(scene: Scene, write: Write, told: bool) -> None:
    scene.memory.nodes[GOAL] = folder = Node(None, 0o755) if told else Typeless(None, 0o755)
    with pytest.raises(SFTPError):
        await write_to_folder(scene, write)
    assert scene.memory.nodes[GOAL] is folder
    assert await scene.left() == source_kept(scene, write)


class Typeless(Node):
    """A folder of a server that does not say what is a folder."""

    @property
    def attributes(self) -> bytes:
        return b"\0\0\0\0"


async def write_to_folder(scene: Scene, write: Write) -> None:
    if write in (upload_small, upload_striped):  # would go into the folder
        await put(scene)
    await write(scene)


async def test_a_server_that_offers_a_rename_which_it_does_not_know(tmp_path: Path, memory: Memory) -> None:
    memory.posix_rename = True
    memory.refuse = lambda request: UNSUPPORTED if request.name == "POSIX-RENAME" else None
    with running_sftp_server(tmp_path / "server", raw=memory) as server:
        async with pool_of(server, connections=1) as pool:
            scene = Scene(memory, pool, tmp_path)
            await put(scene)
            await put(scene)
            assert await scene.left() == []
    assert memory.read(GOAL) == b"n" * 100
    assert memory.count("POSIX-RENAME") == 1  # the second time it is known


@pytest.mark.parametrize("code", [FAILURE, DENIED])
async def test_a_rename_that_replaces_and_is_refused_touches_nothing(tmp_path: Path, memory: Memory, code: int) -> None:
    memory.posix_rename = True
    memory.refuse = lambda request: code if request.name == "POSIX-RENAME" else None
    with running_sftp_server(tmp_path / "server", raw=memory) as server:
        async with pool_of(server) as pool:
            scene = Scene(memory, pool, tmp_path)
            with pytest.raises(SFTPError):
                await put(scene)
            assert await scene.left() == []
    assert memory.read(GOAL) == OLD
    assert not {"REMOVE", "RENAME"} & {request.name for request in memory.asked if request.path == GOAL}


async def test_a_small_file_costs_five_requests(tmp_path: Path, memory: Memory) -> None:
    memory.posix_rename = True
    with running_sftp_server(tmp_path / "server", raw=memory) as server:
        async with pool_of(server) as pool:
            scene = Scene(memory, pool, tmp_path)
            await pool.stat("/")
            memory.asked.clear()
            await put(scene)
    assert [request.name for request in memory.asked] == ["OPEN", "WRITE", "FSETSTAT", "CLOSE", "POSIX-RENAME"]


async def test_a_temporary_file_that_cannot_be_removed_is_named_in_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.memory.refuse = lambda request: DENIED if request.name in ("RENAME", "REMOVE") else None
    with caplog.at_level(logging.WARNING), pytest.raises(SFTPPermissionDenied):
        await put(scene)
    (left,) = await scene.left()
    assert left in caplog.text
