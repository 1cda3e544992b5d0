"""How many files a second come from an OpenSSH server on this machine: ``python benchmarks/sftp.py --help``.

The files are XML documents with a median of 8 KB. Every competitor connects anew (the workers keep their connections),
gets names only, and has all its bytes compared with the source afterwards. Slow ones are given fewer files. The
competitors take turns; the table shows medians.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.cli.demo_files import write_files
from asyncworker.errors import EmbeddedServerError
from benchmarks.report import Measured, print_table, write_json
from benchmarks.sftp_clients import Job, fetch_with_asyncssh, fetch_with_download, fetch_with_paramiko, fetch_with_pool
from benchmarks.sftp_workers import CONCURRENCY, PROCESSES, Workers, running_workers
from tests.servers import MissingServer
from tests.servers.sshd import Sshd, running_sshd

OURS = "asyncworker, await pool.get"

#: In a pipe too, a line of the table is a line.
console = Console() if sys.stdout.isatty() else Console(width=140)


@dataclass
class Competitor:
    """Who takes part, and with how many files at most."""

    row: Measured
    fetch: Callable[[Job], None] | None
    files: int


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, metavar="N", help="files for the fast competitors (17000; quick: 2000)")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--folder", type=Path, help="where the files are, for a disk of your choice")
    given = parser.parse_args()
    given.files = given.files or (2_000 if given.quick else 17_000)
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def competitors(files: int, workers: Workers | None, why_not: str) -> list[Competitor]:
    """List all of them, those that cannot take part included."""
    entries: Sequence[tuple[str, Callable[[Job], None] | None, int, str]] = (
        (
            "paramiko, one after the other",
            fetch_with_paramiko if find_spec("paramiko") else None,
            files // 17,
            "paramiko is not installed: pip install -e '.[bench]'",
        ),
        ("asyncssh, sftp.get, 32 at once", fetch_with_asyncssh, files // 4, ""),
        (OURS, fetch_with_pool, files, ""),
        ("asyncworker, download()", fetch_with_download, files, ""),
        (
            f"Celery prefork x {PROCESSES}, paramiko, a message a file",
            workers.fetch_by_stock_messages if workers and find_spec("paramiko") else None,
            files // 8,
            why_not or "paramiko is not installed: pip install -e '.[bench]'",
        ),
        ("asyncworker worker, a message a file", workers.fetch_by_messages if workers else None, files // 4, why_not),
        (
            f"asyncworker worker, iterate, {CONCURRENCY} at once",
            workers.fetch_by_iterate if workers else None,
            files,
            why_not,
        ),
    )
    return [
        Competitor(
            Measured(name, "files_per_s", "files/s", f"{max(1, count):,} files", missing="" if fetch else missing),
            fetch,
            max(1, count),
        )
        for name, fetch, count, missing in entries
    ]


def take_turn(competitor: Competitor, job: Job) -> None:
    """Measure one round of one competitor, and look at every byte."""
    assert competitor.fetch is not None
    job.local.mkdir()
    began_at = time.perf_counter()
    competitor.fetch(job)
    seconds = time.perf_counter() - began_at
    arrived = {path.name for path in job.local.iterdir()}
    if arrived != set(job.names):
        raise SystemExit(f"{competitor.row.name}: {len(arrived)} files arrived, {len(job.names)} were asked for")
    for name in job.names:
        if (job.local / name).read_bytes() != (job.remote / name).read_bytes():
            raise SystemExit(f"{competitor.row.name}: {name} is not as it was sent")
    competitor.row.values.append(len(job.names) / seconds)
    console.print(f"{competitor.row.name}: {len(job.names):,} files in {seconds:.2f} s")
    shutil.rmtree(job.local)


@contextlib.contextmanager
def workers_where_possible(folder: Path, server: Sshd, warm_up: Job) -> Iterator[tuple[Workers | None, str]]:
    """Start the Celery workers, or say why not."""
    with contextlib.ExitStack() as stack:
        try:
            workers = stack.enter_context(running_workers(folder, server, warm_up))
        except EmbeddedServerError as error:
            yield None, str(error)
        else:
            yield workers, ""


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sftp-benchmark-", dir=given.folder)))
        try:
            server = stack.enter_context(running_sshd(folder / "sshd"))
        except MissingServer as error:
            raise SystemExit(f"this benchmark needs a server: {error}") from None
        source = folder / "source"
        for _ in write_files(source, given.files):
            pass
        names = sorted(path.name for path in source.iterdir())
        size = sum(path.stat().st_size for path in source.iterdir())
        console.print(f"{len(names):,} files, {size / 1e6:,.0f} MB, {given.rounds} rounds")
        (folder / "warm-up").mkdir()
        warm_up = Job(server, source, tuple(names[:40]), folder / "warm-up")
        workers, why_not = stack.enter_context(workers_where_possible(folder, server, warm_up))
        everyone = competitors(given.files, workers, why_not)
        for turn in range(given.rounds):
            for number, competitor in enumerate(everyone):
                if competitor.fetch is not None:
                    local = folder / f"local-{turn}-{number}"  # a folder of that name was never there before
                    take_turn(competitor, Job(server, source, tuple(names[: competitor.files]), local))
        rows = [competitor.row for competitor in everyone]
        print_table("SFTP, OpenSSH server on loopback", rows, OURS, console)
        if given.json:
            write_json(given.json, rows)


if __name__ == "__main__":
    main()
