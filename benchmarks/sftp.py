"""How fast files come from an OpenSSH server on this machine: ``python benchmarks/sftp.py --help``.

Two servers, one on loopback and one behind a link with a round trip of 20 ms; two loads, thousands of XML files with a
median of 8 KB, and one large file. Every competitor connects anew (the workers keep their connections), lists the
folder itself, and has all its bytes compared with the source afterwards. What is slow is given fewer files. The
competitors take turns; the tables show medians. A Python program's time counts from when its imports are done;
processor time is that of the client with its child processes, memory that of the largest of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs by its file name

from rich.console import Console

from asyncworker.cli.demo_files import write_files
from asyncworker.errors import EmbeddedServerError
from benchmarks.delay_link import MissingLink, capacity, running_link
from benchmarks.plot import plot
from benchmarks.report import Measured, print_table, write_json, write_markdown
from benchmarks.sftp_field import OURS, Entry, entries
from benchmarks.sftp_job import Job, Login
from benchmarks.sftp_workers import Workers, running_workers
from tests.servers import MissingServer
from tests.servers.sshd import running_sshd

ROUND_TRIP_S = 0.02
#: The peers open up to 128 connections at once, of which a server with the default would drop most.
_SSHD_CONFIG = ("MaxStartups 200", "MaxSessions 200")
_LARGE = "large.bin"

#: In a pipe too, a line of the table is a line.
console = Console() if sys.stdout.isatty() else Console(width=180)


@dataclass(frozen=True)
class Scenario:
    """A load and a distance."""

    title: str
    metric: str
    unit: str
    distant: bool
    large: bool


SCENARIOS = (
    Scenario("small files, loopback", "files_per_s", "files/s", False, False),
    Scenario("small files, 20 ms round trip", "files_per_s_20ms", "files/s", True, False),
    Scenario("one large file, loopback", "mb_per_s", "MB/s", False, True),
    Scenario("one large file, 20 ms round trip", "mb_per_s_20ms", "MB/s", True, True),
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, metavar="N", help="files for the fast competitors (17000; quick: 2000)")
    parser.add_argument("--large-mb", type=int, metavar="N", help="size of the large file (400; quick: 50); 0: none")
    parser.add_argument("--rounds", type=int, help="how often each has its turn (3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer files and competitors")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only competitors with that in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the medians as a table for a document")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .svg or .png (wants matplotlib)")
    parser.add_argument("--folder", type=Path, help="where the files are, for a disk of your choice")
    parser.add_argument(
        "--airflow-python", default=sys.executable, metavar="PYTHON", help="the interpreter that has Airflow installed"
    )
    given = parser.parse_args()
    given.files = given.files or (2_000 if given.quick else 17_000)
    given.rounds = given.rounds or (1 if given.quick else 3)
    if given.large_mb is None:
        given.large_mb = 50 if given.quick else 400
    return given


class Sources:
    """The folders on the server; what is given fewer files gets a folder of hard links to the first of them."""

    def __init__(self, folder: Path, files: int, large_bytes: int) -> None:
        self._folder = folder
        self._files = files
        self.all = folder / f"files-{files}"
        for _ in write_files(self.all, files):
            pass
        self.large = folder / "large"
        self.large.mkdir()
        with (self.large / _LARGE).open("wb") as file:
            for _ in range(large_bytes // (1 << 20)):
                file.write(os.urandom(1 << 20))

    def part(self, one_of: int) -> Path:
        """The folder with that share of the files."""
        count = max(10, self._files // one_of)
        part = self._folder / f"files-{count}"
        if not part.exists():
            part.mkdir()
            for path in sorted(self.all.iterdir())[:count]:
                os.link(path, part / path.name)
        return part


def take_turn(entry: Entry, scenario: Scenario, row: Measured, job: Job) -> None:
    """Measure one round of one competitor, and look at every byte."""
    local, remote = Path(job.local), Path(job.remote)
    local.mkdir()
    try:
        spent = entry.run(job)
    except RuntimeError as error:
        row.missing = f"failed: {' '.join(str(error).split())[-160:]}"
        console.print(f"{scenario.title}, {entry.name}: {error}", markup=False)
        return
    finally:
        Path(f"{local}.batch").unlink(missing_ok=True)
    size = _compare(entry.name, remote, local)
    amount = size / 1e6 if scenario.large else job.files
    row.values.append(amount / spent.wall_s)
    row.also.setdefault("CPU ms/MB" if scenario.large else "CPU us/file", []).append(
        spent.cpu_s / amount * (1e3 if scenario.large else 1e6)
    )
    row.also.setdefault("memory, MB", []).append(spent.memory_bytes / 1e6)
    console.print(f"{scenario.title}, {entry.name}: {job.files:,} files in {spent.wall_s:.2f} s", highlight=False)
    shutil.rmtree(local)


def _compare(name: str, remote: Path, local: Path) -> int:
    """Return how many bytes there are; end the program where they are not the same."""
    wanted, arrived = ({path.name for path in folder.iterdir()} for folder in (remote, local))
    if arrived != wanted:
        raise SystemExit(f"{name}: {len(arrived)} files arrived, {len(wanted)} were asked for")
    size = 0
    for path in remote.iterdir():
        with path.open("rb") as ours, (local / path.name).open("rb") as theirs:
            while block := ours.read(1 << 20):
                size += len(block)
                if theirs.read(1 << 20) != block:
                    raise SystemExit(f"{name}: {path.name} is not as it was sent")
            if theirs.read(1):
                raise SystemExit(f"{name}: {path.name} is longer than it was")
    return size


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[dict[str, Login], str]]:
    """Start one server, and where the machine allows it a second one behind the link; else say why not."""
    with contextlib.ExitStack() as stack:
        logins: dict[str, Login] = {}
        why_not = ""

        def start(name: str, host: str = "127.0.0.1", enter: tuple[str, ...] = ()) -> None:
            server = stack.enter_context(running_sshd(folder / name, *_SSHD_CONFIG, host=host, enter=enter))
            logins[name] = Login(host, server.port, server.username, str(server.client_key), str(server.known_hosts))

        start("near")
        try:
            link = stack.enter_context(running_link(folder, ROUND_TRIP_S))
        except MissingLink as missing:
            why_not = str(missing)
            console.print(f"no rows for a round trip of {ROUND_TRIP_S * 1e3:g} ms: {why_not}")
        else:
            start("far", link.host, link.enter)
            limits = [capacity(link) for _ in range(3)]
            round_trip_s, most = min(limit[0] for limit in limits), max(limit[1] for limit in limits)
            console.print(
                f"the link: a round trip of {round_trip_s * 1e3:.1f} ms; one TCP stream gets {most / 1e6:,.0f} MB/s",
                highlight=False,
            )
        yield logins, why_not


@contextlib.contextmanager
def workers_where_possible(
    folder: Path, logins: dict[str, Login], sources: Sources
) -> Iterator[tuple[Workers | None, str]]:
    """Start the Celery workers, or say why not."""
    warm_up = []
    for name, login in logins.items():
        local = folder / f"warm-up-{name}"
        local.mkdir()
        remote = sources.part(100)
        warm_up.append(Job(login, str(remote), str(local), len(list(remote.iterdir())), distant=name == "far"))
    with contextlib.ExitStack() as stack:
        try:
            workers = stack.enter_context(running_workers(folder, logins, warm_up))
        except EmbeddedServerError as error:
            yield None, str(error)
        else:
            yield workers, ""


def race(given: argparse.Namespace, folder: Path) -> dict[Scenario, list[Measured]]:
    """Let all take their turns."""
    results: dict[Scenario, list[Measured]] = {}
    with contextlib.ExitStack() as stack:
        logins, _ = stack.enter_context(servers(folder))
        sources = Sources(folder, given.files, given.large_mb << 20)
        workers, why_not = stack.enter_context(workers_where_possible(folder, logins, sources))
        everyone = entries(workers, why_not, given.airflow_python)
        if given.only:
            everyone = [entry for entry in everyone if any(text in entry.name for text in given.only)]
        for scenario in SCENARIOS:
            login = logins.get("far" if scenario.distant else "near")
            if login is None or (scenario.large and not given.large_mb):
                continue
            field = [(entry, _row(entry, scenario, given)) for entry in everyone if entry.large or not scenario.large]
            for turn in range(given.rounds):
                for number, (entry, row) in enumerate(field):
                    if row.missing:
                        continue
                    remote = sources.large if scenario.large else sources.part(entry.part(scenario.distant))
                    files = len(list(remote.iterdir()))
                    row.amount = f"{given.large_mb} MB" if scenario.large else f"{files:,} files"
                    local = folder / f"{scenario.metric}-{turn}-{number}"  # a folder of that name was never there
                    job = Job(login, str(remote), str(local), files, scenario.distant)
                    take_turn(entry, scenario, row, job)
            results[scenario] = [row for _, row in field]
            print_table(f"SFTP from OpenSSH, {scenario.title}", results[scenario], OURS, console)
    return results


def _row(entry: Entry, scenario: Scenario, given: argparse.Namespace) -> Measured:
    missing = entry.missing
    if given.quick and not entry.quick and not given.only:
        missing = "left out by --quick"
    return Measured(entry.name, scenario.metric, scenario.unit, missing=missing)


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="sftp-benchmark-", dir=given.folder) as folder:
        try:
            results = race(given, Path(folder))
        except MissingServer as error:
            raise SystemExit(f"this benchmark needs a server: {error}") from None
    console.print(f"load of the machine over the last 15 minutes: {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores")
    if given.json:
        write_json(given.json, [row for rows in results.values() for row in rows])
    if given.markdown:
        write_markdown(given.markdown, {f"{key.title}, {key.unit}": rows for key, rows in results.items()})
    if given.plot:
        plot(given.plot, {scenario.title: rows for scenario, rows in results.items()})


if __name__ == "__main__":
    main()
