"""``python -m tests.chaos.large_among_small``: files of gigabytes among thousands of small ones, down and up again.

The large ones are sparse where they come from, with blocks of random bytes in places; whole where they go to. Every
byte is compared, and it is counted how many small files were there before the first large one was.
"""

from __future__ import annotations

import asyncio
import filecmp
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from asyncworker.sftp import BulkReport, FileResult, SFTPPool, download, upload
from tests.servers.sshd import Sshd, running_sshd

__all__ = ["Outcome", "make", "move", "same"]

MEGABYTE = 1024 * 1024
#: A block of random bytes in each stretch of that length, so that one in the wrong place is seen.
_STRETCH_BYTES = 16 * MEGABYTE


@dataclass(frozen=True)
class Outcome:
    """What came of one direction.

    Attributes:
        report: What the transfer says of itself.
        small_before: Small files that were there before the first large one was.
        seconds: How long it took.
    """

    report: BulkReport
    small_before: int
    seconds: float


def make(folder: Path, large: int, large_bytes: int, small: int) -> None:
    """Make the files: some small ones in folders, the large ones beside them."""
    chance = random.Random(1)
    for number in range(small):
        if number % 1000 == 0:
            (folder / f"{number // 1000}").mkdir(parents=True)
        (folder / f"{number // 1000}" / f"{number}.xml").write_bytes(chance.randbytes(chance.randrange(500, 16_000)))
    for number in range(large):
        with (folder / f"{number}.large").open("wb") as file:
            file.truncate(large_bytes)
            for stretch in range(0, large_bytes, _STRETCH_BYTES):
                file.seek(stretch + chance.randrange(min(_STRETCH_BYTES, large_bytes - stretch)))
                file.write(chance.randbytes(min(100_000, large_bytes - file.tell())))


async def move(pool: SFTPPool, source: Path, goal: Path, *, up: bool) -> Outcome:
    """Move all that is in a folder."""
    small_before = 0
    large_seen = False

    def on_file(result: FileResult) -> None:
        nonlocal small_before, large_seen
        large_seen |= result.remote.endswith(".large")
        small_before += not large_seen

    began = time.monotonic()
    if up:
        report = await upload(pool, source, goal, on_file=on_file)
    else:
        report = await download(pool, source, goal, on_file=on_file)
    return Outcome(report, small_before, time.monotonic() - began)


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
    there = {str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()}
    return names == there and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def _pool(server: Sshd, transport: str) -> SFTPPool:
    return SFTPPool(
        server.host,
        port=server.port,
        username=server.username,
        client_keys=server.client_key,
        known_hosts=server.known_hosts,
        transport=transport,  # type: ignore[arg-type]
        ssh_config="/dev/null" if transport == "openssh" else None,
    )


@click.command()
@click.option("--large", default=2, show_default=True, help="How many large files.")
@click.option("--gigabytes", default=5.0, show_default=True, help="How large each is.")
@click.option("--small", default=17_000, show_default=True, help="How many small ones.")
@click.option("--transport", type=click.Choice(["asyncssh", "openssh"]), default="asyncssh", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where there is room for all of it once more.")
def main(large: int, gigabytes: float, small: int, transport: str, folder: Path | None) -> None:
    """Move large files among small ones down and up, and compare every byte."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary, running_sshd(Path(temporary) / "sshd") as server:
        source, goal = Path(temporary) / "source", Path(temporary) / "goal"
        source.mkdir()
        make(source, large, int(gigabytes * 1024 * MEGABYTE), small)
        failed = False
        for up in (False, True):
            goal.mkdir()

            async def run(up: bool = up) -> Outcome:
                async with _pool(server, transport) as pool:
                    return await move(pool, source, goal, up=up)

            outcome = asyncio.run(run())
            report = outcome.report
            alike = same(source, goal)
            failed |= not alike or not report.ok
            moved, seconds = report.bytes_done, outcome.seconds
            rate = f"{moved / 1e9:.1f} GB in {seconds:.1f} s, {moved / 1e6 / seconds:.0f} MB/s"
            memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            click.echo(
                f"{'up' if up else 'down'}, {transport}: {report.files_done:,} files, {rate};"
                f" {outcome.small_before:,} of {small:,} small files were there before the first large one;"
                f" {report.files_failed} failed; {'every byte the same' if alike else 'NOT THE SAME'};"
                f" at most {memory_mb:.0f} MB of memory; load {os.getloadavg()[0]:.1f}"
            )
            for path in sorted(goal.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            goal.rmdir()
        sys.exit(failed)


if __name__ == "__main__":
    main()
