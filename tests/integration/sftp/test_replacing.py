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
from tests.servers.sftp_hostile import (
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Hostile,
    Request,
    running_hostile_server,
    without_attributes,
)

GOAL = b"/goal"
OLD = b"the only copy of the old one"
#: A code that servers of later versions send to clients of version 3 as well.
FILE_ALREADY_EXISTS = 11


@dataclass
class Scene:
    """A server without a rename that replaces, and a pool on it."""

    server: Hostile
    pool: SFTPPool
    folder: Path

    def local(self, size: int) -> Path:
        path = self.folder / "new"
        path.write_bytes(b"n" * size)
        return path

    async def left(self) -> list[str]:
        """What else is on the server, once every request was answered."""
        assert await settled(self.pool)
        return [path for path in self.server.tree.paths() if path != "/goal"]

    def goal(self) -> bytes:
        return self.server.tree.read(GOAL)


@pytest.fixture
def hostile() -> Hostile:
    made = Hostile(without=("posix-rename",))
    made.tree.write(GOAL, OLD)
    return made


@pytest.fixture
async def scene(tmp_path: Path, hostile: Hostile) -> AsyncIterator[Scene]:
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with pool_of(server) as pool:
            yield Scene(hostile, pool, tmp_path)


async def put(scene: Scene) -> None:
    await scene.pool.put(scene.local(100), "/goal")


async def put_many(scene: Scene) -> None:
    async for result in scene.pool.put_many([(scene.local(100), "/goal")]):
        if result.error is not None:
            raise result.error


async def put_stream(scene: Scene) -> None:
    await scene.pool.put_stream([b"n" * 50, b"n" * 50], "/goal")


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
    scene.server.tree.write("/whole", b"n" * 100)
    await scene.pool.rename("/whole", "/goal", replace=True)


EVERY_WRITER = pytest.mark.parametrize("write", [put, put_many, put_stream, upload_small, upload_striped, rename])
Write = Callable[[Scene], Awaitable[None]]


def into_goal(request: Request) -> bool:
    """Whether it is a rename of a new file to its name."""
    name = request.path.rpartition(b"/")[2].decode()
    aside = isinstance(parse(name), Aside)
    return request.kind == "RENAME" and request.second == GOAL and not aside


def back(request: Request) -> bool:
    """Whether it is a rename of the old file to its name again."""
    aside = isinstance(parse(request.path.rpartition(b"/")[2].decode()), Aside)
    return request.kind == "RENAME" and request.second == GOAL and aside


def source_kept(scene: Scene, write: Write) -> list[str]:
    """What ``rename`` was to move is the user's own; a temporary file of ours is not."""
    return ["/whole"] if write is rename else []


@EVERY_WRITER
@pytest.mark.promise("sftp-replaces-in-one-step-or-puts-back")
async def test_the_old_file_is_replaced(scene: Scene, write: Write) -> None:
    await write(scene)
    assert set(scene.goal()) == set(b"n")
    assert await scene.left() == []


@EVERY_WRITER
@pytest.mark.parametrize("code", [PERMISSION_DENIED, FAILURE, UNSUPPORTED, NO_SUCH_FILE, FILE_ALREADY_EXISTS])
async def test_a_server_that_refuses_every_rename_keeps_the_old_file(scene: Scene, write: Write, code: int) -> None:
    scene.server.refuse_if = lambda request: code if request.kind == "RENAME" else None
    with pytest.raises(SFTPError) as raised:
        await write(scene)
    assert scene.goal() == OLD
    assert await scene.left() == source_kept(scene, write)
    if code != NO_SUCH_FILE:
        assert "no such file" not in str(raised.value)


@EVERY_WRITER
@pytest.mark.parametrize("code", [FAILURE, PERMISSION_DENIED, UNSUPPORTED, NO_SUCH_FILE, FILE_ALREADY_EXISTS])
@pytest.mark.promise("sftp-replaces-in-one-step-or-puts-back")
async def test_a_server_that_refuses_the_new_file_has_the_old_one_back(scene: Scene, write: Write, code: int) -> None:
    def refuse(request: Request) -> int | None:
        if not into_goal(request):
            return None
        return FAILURE if scene.server.tree.exists(GOAL) else code

    scene.server.refuse_if = refuse
    with pytest.raises(SFTPError):
        await write(scene)
    assert scene.goal() == OLD
    assert await scene.left() == source_kept(scene, write)


async def fails_and_names_the_old_file(scene: Scene, write: Write) -> None:
    """See a write fail with an error that names where the old file is, which is whole there."""
    with pytest.raises(SFTPError) as raised:
        await write(scene)
    (aside,) = [name for name in await scene.left() if name not in source_kept(scene, write)]
    assert aside in str(raised.value)
    assert scene.server.tree.read(aside) == OLD


@EVERY_WRITER
async def test_what_cannot_be_put_back_is_kept_and_named(scene: Scene, write: Write) -> None:
    scene.server.refuse_if = lambda request: FAILURE if into_goal(request) or back(request) else None
    await fails_and_names_the_old_file(scene, write)


@EVERY_WRITER
async def test_a_server_that_remembers_the_old_file_keeps_it(scene: Scene, write: Write) -> None:
    scene.server.phantoms = {GOAL: scene.server.tree.node(GOAL).stat()}
    scene.server.refuse_if = lambda request: FAILURE if into_goal(request) or back(request) else None
    await fails_and_names_the_old_file(scene, write)


@EVERY_WRITER
@pytest.mark.parametrize("remembered", [False, True])
async def test_an_old_file_whose_way_back_was_cut_comes_back_or_is_named(
    scene: Scene, write: Write, remembered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is lost with the old file aside; a second try, where there is one, is refused."""
    scene.server.hang_up_if = lambda request: into_goal(request) and not scene.server.tree.exists(GOAL)
    if remembered:
        scene.server.phantoms = {GOAL: scene.server.tree.node(GOAL).stat()}
        scene.server.refuse_if = lambda request: PERMISSION_DENIED if back(request) else None
    with caplog.at_level(logging.WARNING):
        with pytest.raises(SFTPError):
            await write(scene)
        await scene.pool.close()
    kept = [path for path, content in scene.server.tree.files().items() if content == OLD]
    assert len(kept) == 1
    assert kept[0] in (["/goal"] if not remembered else caplog.text)


@EVERY_WRITER
async def test_no_such_file_is_believed_of_an_old_file_only_if_it_has_gone(scene: Scene, write: Write) -> None:
    """Some servers answer so to any rename that fails."""
    begun = False

    def refuse(request: Request) -> int | None:
        nonlocal begun
        if into_goal(request) and not begun:
            begun = True
            return FAILURE
        return NO_SUCH_FILE if into_goal(request) or back(request) else None

    scene.server.refuse_if = refuse
    await fails_and_names_the_old_file(scene, write)


@EVERY_WRITER
async def test_an_old_file_that_cannot_be_removed_is_named_in_the_log(
    scene: Scene, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: Request) -> int | None:
        return PERMISSION_DENIED if request.kind == "REMOVE" else None

    scene.server.refuse_if = refuse
    with caplog.at_level(logging.WARNING):
        await write(scene)
    assert set(scene.goal()) == set(b"n")
    (aside,) = await scene.left()
    assert aside in caplog.text
    assert is_ours(aside[1:])


@EVERY_WRITER
async def test_permission_denied_touches_nothing(scene: Scene, write: Write) -> None:
    scene.server.refuse_if = lambda request: PERMISSION_DENIED if request.kind == "RENAME" else None
    with pytest.raises(SFTPPermissionDenied):
        await write(scene)
    assert scene.server.count("RENAME") == 1
    assert GOAL not in {request.path for request in scene.server.history if request.kind in ("REMOVE", "RENAME")}


@EVERY_WRITER
@pytest.mark.parametrize("code", [FAILURE, UNSUPPORTED, FILE_ALREADY_EXISTS])
async def test_without_an_old_file_the_error_is_that_of_the_rename(scene: Scene, write: Write, code: int) -> None:
    del scene.server.tree.root.entries[b"goal"]
    scene.server.refuse_if = lambda request: code if request.kind == "RENAME" else None
    with pytest.raises(SFTPError, match=f"status {code}"):
        await write(scene)
    assert await scene.left() == source_kept(scene, write)


@EVERY_WRITER
@pytest.mark.parametrize("told", [True, False])
async def test_a_folder_is_never_moved_aside(scene: Scene, write: Write, told: bool) -> None:
    scene.server.tree.root.entries.pop(b"goal")
    folder = scene.server.tree.mkdir(GOAL)
    if not told:
        scene.server.claim = without_attributes("LSTAT")
    with pytest.raises(SFTPError):
        await write_to_folder(scene, write)
    assert scene.server.tree.node(GOAL) is folder
    assert await scene.left() == source_kept(scene, write)


async def write_to_folder(scene: Scene, write: Write) -> None:
    if write in (upload_small, upload_striped):  # would go into the folder
        await put(scene)
    await write(scene)


async def test_a_server_that_offers_a_rename_which_it_does_not_know(tmp_path: Path, hostile: Hostile) -> None:
    hostile.without = ()
    hostile.refuse_if = lambda request: UNSUPPORTED if request.kind == "posix-rename" else None
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with pool_of(server, connections=1) as pool:
            scene = Scene(hostile, pool, tmp_path)
            await put(scene)
            await put(scene)
            assert await scene.left() == []
    assert hostile.tree.read(GOAL) == b"n" * 100
    assert hostile.count("posix-rename") == 1  # the second time it is known


@pytest.mark.parametrize("code", [FAILURE, PERMISSION_DENIED])
async def test_a_rename_that_replaces_and_is_refused_touches_nothing(
    tmp_path: Path, hostile: Hostile, code: int
) -> None:
    hostile.without = ()
    hostile.refuse_if = lambda request: code if request.kind == "posix-rename" else None
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with pool_of(server) as pool:
            scene = Scene(hostile, pool, tmp_path)
            with pytest.raises(SFTPError):
                await put(scene)
            assert await scene.left() == []
    assert hostile.tree.read(GOAL) == OLD
    assert not {"REMOVE", "RENAME"} & {request.kind for request in hostile.history if request.path == GOAL}


@pytest.mark.parametrize(("send", "asked"), [(put, ["LSTAT"]), (put_many, [])])
async def test_a_small_file_costs_five_requests_and_put_asks_what_is_there_beside_the_first(
    tmp_path: Path, hostile: Hostile, send: Callable[[Scene], Awaitable[None]], asked: list[str]
) -> None:
    hostile.without = ()
    with running_hostile_server(tmp_path / "server", hostile) as server:
        async with pool_of(server) as pool:
            scene = Scene(hostile, pool, tmp_path)
            await pool.stat("/")
            hostile.history.clear()
            await send(scene)
    requests = [request.kind for request in hostile.history]
    assert requests == [*asked, "OPEN", "WRITE", "FSETSTAT", "CLOSE", "posix-rename"]


async def test_a_temporary_file_that_cannot_be_removed_is_named_in_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.server.refuse_if = lambda request: PERMISSION_DENIED if request.kind in ("RENAME", "REMOVE") else None
    with caplog.at_level(logging.WARNING), pytest.raises(SFTPPermissionDenied):
        await put(scene)
    (left,) = await scene.left()
    assert left in caplog.text
