"""The rows of the table: each does one thing, and compares every byte."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp import BulkProgress, download, sync, upload
from tests.sftp_matrix.ground import Cannot, Ground, content, tree_of

__all__ = ["OPERATIONS", "Operation"]

Operation = Callable[[Ground], Awaitable[None]]

MEGABYTE = 1024 * 1024
MTIME = 1_500_000_000

ODD = ["-rf", " a ", "it's", 'a"b', "*?[x]{y}", "a#b%20c;d&e", "$HOME `id`", "~", "a:b", "...", "a" * 200, ".hidden"]
UNICODE = ["ünïcode", "u\u0308", "日本語", "😀", "\u202ecba"]

OPERATIONS: dict[str, Operation] = {}


def row(operation: Operation) -> Operation:
    """Add a row, named as the function."""
    OPERATIONS[operation.__name__.replace("_", " ")] = operation  # type: ignore[attr-defined]
    return operation


def same(found: Any, expected: Any) -> None:
    """Compare; large things are not shown."""
    if found != expected:
        shown = [
            repr(value) if len(repr(value)) < 300 else f"{type(value).__name__} of {len(value)}"
            for value in (found, expected)
        ]
        raise AssertionError(f"{shown[0]} in place of {shown[1]}")


# -- one file ----------------------------------------------------------------------------------------------------------


@row
async def get(g: Ground) -> None:
    g.far.write("a", content(100_000), mtime=MTIME)
    done = await g.pool.get(g.remote("a"), g.local / "a")
    same((done.size_bytes, done.mtime), (100_000, MTIME))
    same(tree_of(g.local), {"a": content(100_000)})
    same(int((g.local / "a").stat().st_mtime), MTIME)


@row
async def put(g: Ground) -> None:
    (g.local / "a").write_bytes(content(100_000))
    os.utime(g.local / "a", (MTIME, MTIME))
    g.far.write("a", b"the old one")
    await g.pool.put(g.local / "a", g.remote("a"), mode=0o640)
    same(g.far.files(), {"a": content(100_000)})
    same(g.far.mode_and_mtime("a"), (0o640, MTIME))


@row
async def get_many(g: Ground) -> None:
    files = {f"{n}": content(n * 300, n) for n in range(100)}
    for name, data in files.items():
        g.far.write(name, data)
    pairs = [(g.remote(name), g.local / name) for name in (*files, "missing")]
    failed = [result async for result in g.pool.get_many(pairs) if not result.ok]
    same([(result.remote, type(result.error)) for result in failed], [(g.remote("missing"), SFTPFileNotFound)])
    same(tree_of(g.local), files)


@row
async def put_many(g: Ground) -> None:
    files = {f"{n}": content(n * 300, n) for n in range(100)}
    for name, data in files.items():
        (g.local / name).write_bytes(data)
    async for result in g.pool.put_many((g.local / name, g.remote(name)) for name in files):
        assert result.ok, result.error
    same(g.far.files(), files)


@row
async def zero_bytes(g: Ground) -> None:
    g.far.write("a", b"")
    await g.pool.get(g.remote("a"), g.local / "a")
    await g.pool.put(g.local / "a", g.remote("b"))
    async with g.pool.open(g.remote("a")) as file:
        same(await file.read(10), b"")
    async with g.pool.open(g.remote("c"), "w"):
        pass
    same(g.far.files(), {"a": b"", "b": b"", "c": b""})
    same(tree_of(g.local), {"a": b""})


@row
async def large_file(g: Ground) -> None:
    size = (7 if g.short else 100) * MEGABYTE + 12_345
    g.far.write("a", content(size))
    await g.pool.get(g.remote("a"), g.local / "a")
    same((g.local / "a").read_bytes(), content(size))
    await g.pool.put(g.local / "a", g.remote("b"))
    same(g.far.files(), {"a": content(size), "b": content(size)})


@row
async def open_for_reading(g: Ground) -> None:
    g.far.write("a", content(700_000))
    async with g.pool.open(g.remote("a")) as file:
        head = await file.read(1000)
        rest = [block async for block in file]
    same(head + b"".join(rest), content(700_000))


@row
async def open_for_writing(g: Ground) -> None:
    g.far.write("a", b"longer than what is written over it" * 10)
    async with g.pool.open(g.remote("a"), "w") as file:
        await file.write(content(100))
    async with g.pool.open(g.remote("b"), "w") as file:
        for n in range(10):
            await file.write(content(77_777, n))
    same(g.far.files(), {"a": content(100), "b": b"".join(content(77_777, n) for n in range(10))})


@row
async def open_exclusively(g: Ground) -> None:
    g.far.write("a", b"precious")
    with pytest.raises(SFTPError):
        async with g.pool.open(g.remote("a"), "x") as file:
            await file.write(b"x")
    async with g.pool.open(g.remote("b"), "x") as file:
        await file.write(content(5))
    same(g.far.files(), {"a": b"precious", "b": content(5)})


# -- names -----------------------------------------------------------------------------------------------------------


@row
async def list_and_walk(g: Ground) -> None:
    for name in ("a", "b", "sub/c", "sub/deep/d"):
        g.far.write(name, content(len(name)), mtime=MTIME)
    found = {entry.name: entry async for entry in g.pool.list(g.far.root)}
    same(sorted(found), ["a", "b", "sub"])
    same((found["a"].size_bytes, found["a"].mtime, found["a"].is_file), (1, MTIME, True))
    same(found["sub"].is_dir, True)
    walked = [entry.path async for entry in g.pool.walk(g.far.root)]
    expected = ["a", "b", "sub", "sub/c", "sub/deep", "sub/deep/d"]
    same(sorted(path.removeprefix(g.far.root).lstrip("/") for path in walked), expected)
    with pytest.raises(SFTPFileNotFound):
        _ = [entry async for entry in g.pool.list(g.remote("missing"))]


@row
async def stat_and_exists(g: Ground) -> None:
    g.far.write("a", content(100), mtime=MTIME, mode=0o600)
    found = await g.pool.stat(g.remote("a"))
    same((found.size_bytes, found.mtime, found.mode), (100, MTIME, 0o100600))
    same((await g.pool.stat(g.far.root)).is_dir, True)
    same([await g.pool.exists(g.remote(name)) for name in ("a", "missing")], [True, False])
    with pytest.raises(SFTPFileNotFound):
        await g.pool.stat(g.remote("missing"))


@row
async def statvfs(g: Ground) -> None:
    try:
        found = await g.pool.statvfs(g.far.root)
    except SFTPError as error:
        session = g.pool._connections._sessions[0]
        assert not session.protocol.tells_space, error
        raise Cannot("it offers no statvfs@openssh.com") from None
    assert found.size_bytes >= found.free_bytes > 0


@row
async def rename(g: Ground) -> None:
    g.far.write("a", b"a")
    g.far.write("b", b"b")
    with pytest.raises(SFTPError):
        await g.pool.rename(g.remote("a"), g.remote("b"))
    await g.pool.rename(g.remote("a"), g.remote("c"))
    same(g.far.files(), {"b": b"b", "c": b"a"})
    with pytest.raises(SFTPFileNotFound):
        await g.pool.rename(g.remote("missing"), g.remote("d"))


@row
async def rename_over_a_file(g: Ground) -> None:
    g.far.write("a", b"new")
    g.far.write("b", b"old")
    await g.pool.rename(g.remote("a"), g.remote("b"), replace=True)
    same(g.far.files(), {"b": b"new"})


@row
async def remove(g: Ground) -> None:
    g.far.write("a", b"a")
    g.far.mkdir("sub")
    await g.pool.remove(g.remote("a"))
    await g.pool.remove(g.remote("a"), missing_ok=True)
    for path in ("a", "sub"):
        with pytest.raises(SFTPError):
            await g.pool.remove(g.remote(path))
    same(g.far.names(), ["sub"])


@row
async def mkdir_and_rmdir(g: Ground) -> None:
    await g.pool.mkdir(g.remote("a/b/c"), parents=True)
    await g.pool.mkdir(g.remote("a"), exist_ok=True)
    with pytest.raises(SFTPError):
        await g.pool.mkdir(g.remote("a"))
    with pytest.raises(SFTPError):
        await g.pool.rmdir(g.remote("a"))
    await g.pool.rmdir(g.remote("a/b/c"))
    same(g.far.names("a/b"), [])


@row
async def remove_tree(g: Ground) -> None:
    for n in range(50):
        g.far.write(f"tree/{n % 5}/{n}", b"x")
    g.far.write("beside", b"precious")
    g.far.symlink("tree/link", "../beside")
    await g.pool.remove_tree(g.remote("tree"))
    same(g.far.files(), {"beside": b"precious"})
    same(g.far.names(), ["beside"])


@row
async def chmod(g: Ground) -> None:
    g.far.write("a", b"x", mtime=MTIME)
    await g.pool.chmod(g.remote("a"), 0o600)
    same(g.far.mode_and_mtime("a"), (0o600, MTIME))


@row
async def utime(g: Ground) -> None:
    g.far.write("a", b"x")
    await g.pool.utime(g.remote("a"), MTIME)
    same(g.far.mode_and_mtime("a"), (0o644, MTIME))


@row
async def truncate(g: Ground) -> None:
    g.far.write("a", content(1000))
    await g.pool.truncate(g.remote("a"), 100)
    same(g.far.files(), {"a": content(1000)[:100]})
    await g.pool.truncate(g.remote("a"), 200)
    same(g.far.files(), {"a": content(1000)[:100] + bytes(100)})


@row
async def realpath(g: Ground) -> None:
    g.far.mkdir("sub")
    same(await g.pool.realpath(g.remote("sub/../sub/.")), os.path.realpath(g.remote("sub")))


@row
async def symlink_and_readlink(g: Ground) -> None:
    g.far.write("a", b"x")
    await g.pool.symlink("a", g.remote("link"))
    same((await g.pool.stat(g.remote("link"))).size_bytes, 1)
    found = await g.pool.readlink(g.remote("link"))
    if g.server == "proftpd" and found == g.remote("a"):
        raise Cannot("READLINK answers with the whole path that a link leads to")
    same(found, "a")


# -- folders -----------------------------------------------------------------------------------------------------------


async def there_and_back(g: Ground, files: dict[str, bytes], **options: Any) -> None:
    """Up, and down again, and a second time, when there is nothing to do."""
    for name, data in files.items():
        (g.local / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (g.local / "from" / name).write_bytes(data)
    (g.local / "from").mkdir(exist_ok=True)
    for again in (False, True):
        up = await upload(g.pool, g.local / "from", g.remote("up"), **options)
        up.raise_for_errors()
        down = await download(g.pool, g.remote("up"), g.local / "to", **options)
        down.raise_for_errors()
        same((up.files_done, down.files_done), (0, 0) if again else (len(files), len(files)))
    same({name.removeprefix("up/"): data for name, data in g.far.files().items()}, files)
    same(tree_of(g.local / "to"), files)


@row
async def upload_and_download(g: Ground) -> None:
    await there_and_back(g, {f"{n % 3}/{n}": content(n * 1000, n) for n in range(60)})


@row
async def upload_in_place(g: Ground) -> None:
    files = {f"{n}": content(n * 1000, n) for n in range(20)} | {"large": content(9 * MEGABYTE)}
    for name, data in files.items():
        (g.local / name).write_bytes(data)
    (await upload(g.pool, g.local, g.remote("up"), inplace=True)).raise_for_errors()
    same(g.far.files(), {f"up/{name}": data for name, data in files.items()})


@row
async def compared_by_contents(g: Ground) -> None:
    large = content(9 * MEGABYTE)
    for name, here, there in (("same", large, large), ("last", large, large[:-1] + b"?"), ("small", b"a", b"a")):
        (g.local / name).write_bytes(here)
        g.far.write(f"up/{name}", there, mtime=MTIME)
    report = await upload(g.pool, g.local, g.remote("up"), skip="checksum")
    report.raise_for_errors()
    same((report.files_done, report.files_skipped), (1, 2))
    same(g.far.files(), {f"up/{name}": data for name, data in tree_of(g.local).items()})


@row
async def sync_with_deletions(g: Ground) -> None:
    (g.local / "a").write_bytes(content(10))
    g.far.write("up/a", b"old")
    g.far.write("up/gone/b", b"old")
    (await sync(g.local, (g.pool, g.remote("up")), delete=True)).raise_for_errors()
    same(g.far.files(), {"up/a": content(10)})
    same(g.far.names("up"), ["a"])


@row
async def odd_names(g: Ground) -> None:
    await there_and_back(g, {name: content(50, n) for n, name in enumerate(ODD)})


@row
async def unicode_names(g: Ground) -> None:
    await there_and_back(g, {name: content(50, n) for n, name in enumerate(UNICODE)})


@row
async def names_that_are_no_text(g: Ground) -> None:
    if g.server == "paramiko":
        raise Cannot("it holds names as text, and answers no request whose name is not UTF-8")
    await there_and_back(g, {os.fsdecode(b"\xff\xfe-%d" % n): content(50, n) for n in range(3)})


@row
async def links(g: Ground) -> None:
    g.far.write("in/a", b"a")
    g.far.write("in/sub/b", b"b")
    for name, target in {"link": "a", "up": "sub/b", "folder": "sub", "broken": "nowhere"}.items():
        g.far.symlink(f"in/{name}", target)
    (await download(g.pool, g.remote("in"), g.local / "skip")).raise_for_errors()
    same(tree_of(g.local / "skip"), {"a": b"a", "sub/b": b"b"})
    report = await download(g.pool, g.remote("in"), g.local / "follow", links="follow")
    same(tree_of(g.local / "follow"), {"a": b"a", "link": b"a", "up": b"b", "sub/b": b"b"})
    same([result.remote for result in report.errors if result.remote != g.remote("in/broken")], [])


@row
async def links_kept(g: Ground) -> None:
    (g.local / "a").write_bytes(b"a")
    (g.local / "link").symlink_to("a")
    for _ in range(2):
        (await upload(g.pool, g.local, g.remote("up"), links="keep", skip="never")).raise_for_errors()
        same(g.far.files(), {"up/a": b"a"})
        same(g.far.names("up"), ["a", "link"])
    report = await download(g.pool, g.remote("up"), g.local / "back", links="keep")
    if g.server == "proftpd" and "absolute" in str(report.errors):
        raise Cannot("READLINK answers with absolute paths, and those are refused")
    report.raise_for_errors()
    same(str((g.local / "back" / "link").readlink()), "a")


@row
async def deep_tree(g: Ground) -> None:
    levels = 30 if g.short else 60 if g.server == "proftpd" else 150  # whose READDIR looks at the whole path each time
    await there_and_back(g, {"/".join(["d"] * level + ["f"]): content(level, level) for level in range(levels)})


@row
async def many_files_in_a_folder(g: Ground) -> None:
    await there_and_back(g, {f"{n}.xml": content(n % 50, n) for n in range(300 if g.short else 5000)})


# -- large files -------------------------------------------------------------------------------------------------------


@row
async def stripes(g: Ground) -> None:
    size = (9 if g.short else 40) * MEGABYTE + 7
    await there_and_back(g, {"a": content(size, 1), "b": content(size, 2), "small": b"x"})


async def stopped(job: Callable[..., Awaitable[Any]], enough: int) -> None:
    """Cancel a transfer once that many bytes have come."""
    reached = asyncio.Event()

    def see(progress: BulkProgress) -> None:
        if progress.bytes_done >= enough:
            reached.set()

    task = asyncio.ensure_future(job(on_progress=see))
    waiting = asyncio.ensure_future(reached.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert not task.done(), "it was through before it could be stopped"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@row
async def download_resumed(g: Ground) -> None:
    size = 20 * MEGABYTE
    g.far.write("in/a", content(size))
    await stopped(lambda **told: download(g.slow, g.remote("in"), g.local, **told), 9 * MEGABYTE)
    same(len(list(g.local.iterdir())), 1)  # a part is kept
    report = await download(g.pool, g.remote("in"), g.local)
    report.raise_for_errors()
    same(tree_of(g.local), {"a": content(size)})


@row
async def upload_resumed(g: Ground) -> None:
    size = 60 * MEGABYTE
    (g.local / "a").write_bytes(content(size))
    await stopped(lambda **told: upload(g.slow, g.local, g.remote("up"), **told), 40 * MEGABYTE)
    same(len(g.far.names("up")), 1)  # a part is kept
    (await upload(g.pool, g.local, g.remote("up"))).raise_for_errors()
    same(g.far.files(), {"up/a": content(size)})


#: Left out of the short form: they move 20 and 60 MB, slowly.
LONG = ("download resumed", "upload resumed")
