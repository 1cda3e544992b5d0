"""``asyncworker demo``, as a user runs it: to its end, crashed, killed, interrupted."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from asyncworker.cli.demo_files import LARGEST_BYTES, SMALLEST_BYTES, compare, file_content, file_name
from asyncworker.cli.demo_folder import DemoFolder, DemoRecord
from tests.servers.worker import ROOT

ASYNCWORKER = [sys.executable, "-c", "from asyncworker.cli import main; main()"]
END_S = 60.0


@dataclass
class Table:
    files: int
    size_bytes: int
    seconds: float
    rate: int
    resumed: int
    failed: int


class Demo:
    """A demo in the background, its output a pipe."""

    def __init__(self, folder: DemoFolder, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*ASYNCWORKER, "demo", "--dir", str(folder.root), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        while (found := re.search(pattern, self.output)) is None:
            line = self.process.stdout.readline()
            assert line, f"it ended without {pattern!r}:\n{self.output}"
            self.output += line
        return found

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> int:
        self.output += self.process.communicate(timeout=END_S)[0]
        assert "Traceback" not in self.output, self.output
        assert "Exception ignored" not in self.output, self.output
        return self.process.returncode

    def table(self) -> Table:
        row = re.search(r"^│([\d,. │]+)│$", self.output, re.MULTILINE)
        assert row is not None, self.output
        cells = [cell.strip().replace(",", "") for cell in row[1].split("│")]
        return Table(int(cells[0]), int(cells[1]), float(cells[2]), int(cells[3]), int(cells[4]), int(cells[5]))


class Demos:
    """Starts demos in one folder, and ends what a failing test leaves."""

    def __init__(self, folder: DemoFolder) -> None:
        self.folder = folder
        self.started: list[Demo] = []

    def __call__(self, *arguments: str) -> Demo:
        demo = Demo(self.folder, *arguments)
        self.started.append(demo)
        return demo

    def end(self) -> None:
        for demo in self.started:
            demo.process.kill()
            demo.process.communicate()


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[Demos]:
    running = Demos(DemoFolder(tmp_path / "demo"))
    yield running
    running.end()


def opened(folder: DemoFolder) -> Counter[str]:
    """How often the server has sent each file, by its own account."""
    return Counter(folder.opened_log.read_text().split())


def all_there(folder: DemoFolder, files: int) -> bool:
    return compare(folder.received, folder.source, files).complete


@pytest.mark.promise("demo-compares-every-file")
def test_it_fetches_every_file_and_leaves_nothing(demos: Demos) -> None:
    demo = demos("--files", "300")
    demo.read_until("fetching")
    children = demo.children()
    assert demo.finish() == 0, demo.output
    assert "all 300 files are byte-identical to their source" in demo.output
    table = demo.table()
    assert (table.files, table.resumed, table.failed) == (300, 0, 0)
    assert table.size_bytes == sum(len(file_content(number)) for number in range(300))
    assert "\x1b" not in demo.output
    assert "fetching: 300 of 300" in demo.output
    assert not demos.folder.root.exists()
    assert psutil.wait_procs(children, timeout=60)[1] == []


@pytest.mark.promise("demo-survives-a-killed-worker")
def test_a_worker_that_is_killed_half_way_costs_nothing_that_was_done(demos: Demos) -> None:
    demo = demos("--files", "600", "--crash", "--keep")
    assert demo.finish() == 0, demo.output
    killed_at = int(demo.read_until(r"killed the worker, process \d+, at (\d+) of 600 files")[1])
    table = demo.table()
    assert 300 <= killed_at < 600
    assert (table.files, table.failed) == (600, 0)
    assert killed_at <= table.resumed < 600
    # The server's own account: what the checkpoint held was not sent again.
    times = opened(demos.folder)
    assert len(times) == 600
    assert set(times.values()) <= {1, 2}
    assert times.total() <= 600 + (600 - table.resumed)
    assert all_there(demos.folder, 600)


@pytest.mark.promise("demo-continues-when-killed")
def test_a_demo_that_is_killed_is_continued_by_the_next_one(demos: Demos) -> None:
    first = demos("--files", "600", "--crash", "--keep")
    first.read_until("fetching: [12]")
    children = first.children()
    assert len(children) == 3
    first.signal(signal.SIGKILL)
    assert first.finish() == -signal.SIGKILL
    assert psutil.wait_procs(children, timeout=60)[1] == []
    second = demos("--keep")
    assert second.finish() == 0, second.output
    done = int(second.read_until(r"continuing the run of [-\d]+ [:\d]+: (\d+) of 600 done")[1])
    table = second.table()
    assert 0 < done < 600
    assert (table.files, table.failed) == (600, 0)
    assert table.resumed == done
    assert opened(demos.folder).total() <= 600 + (600 - done)
    assert all_there(demos.folder, 600)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_no_process_and_no_half_file(demos: Demos, number: signal.Signals, code: int) -> None:
    demo = demos("--files", "400", "--crash")
    demo.read_until("fetching: ")
    children = demo.children()
    demo.signal(number)
    assert demo.finish() == code
    assert psutil.wait_procs(children, timeout=60)[1] == []
    received = sorted(demos.folder.received.iterdir())
    assert received
    for path in received:
        assert path.read_bytes() == (demos.folder.source / path.name).read_bytes()
    again = demos()
    assert again.finish() == 0, again.output
    assert "continuing the run of" in again.output
    assert "all 400 files are byte-identical to their source" in again.output
    assert not demos.folder.root.exists()


def test_another_number_of_files_is_another_demo(demos: Demos) -> None:
    first = demos("--files", "400", "--crash")
    first.read_until("fetching: ")
    first.signal(signal.SIGKILL)
    first.finish()
    second = demos("--files", "40")
    assert second.finish() == 0
    assert "an unfinished demo of 400 files is dropped: this one is of 40" in second.output
    assert second.table().files == 40


def test_two_demos_do_not_share_a_folder(demos: Demos) -> None:
    first = demos("--files", "400", "--crash")
    first.read_until("making")
    second = demos()
    assert second.finish() == 1
    assert re.fullmatch(r"Error: another demo is running in .*; name another --dir\n", second.output)
    first.signal(signal.SIGINT)
    first.finish()


def test_a_folder_with_something_else_in_it_is_left_alone(demos: Demos) -> None:
    demos.folder.root.mkdir()
    (demos.folder.root / "thesis.tex").write_text("years of work")
    demo = demos("--files", "10")
    assert demo.finish() == 1
    assert "is not empty and not of an earlier demo" in demo.output
    assert [path.name for path in demos.folder.root.iterdir()] == ["thesis.tex"]


def test_a_file_that_cannot_be_written_fails_the_demo_and_the_next_one_fetches_it(demos: Demos) -> None:
    # A folder stands where a file should go.
    obstacle = demos.folder.received / file_name(7)
    obstacle.mkdir(parents=True)
    (obstacle / "in the way").touch()
    demos.folder.lock_file.touch()
    demos.folder.save(DemoRecord(files=30, run_id="never-sent", started_at=datetime.now(UTC)))
    first = demos()
    assert first.finish() == 1
    assert (first.table().files, first.table().failed) == (29, 1)
    assert f"{file_name(7)}" in first.output
    (obstacle / "in the way").unlink()
    obstacle.rmdir()
    second = demos()
    assert second.finish() == 0, second.output
    assert "29 of 30 done" in second.output
    assert (second.table().files, second.table().resumed, second.table().failed) == (30, 29, 0)


def test_the_files_are_varied_and_the_same_every_time() -> None:
    contents = [file_content(number) for number in range(400)]
    sizes = sorted(len(content) for content in contents)
    assert contents == [file_content(number) for number in range(400)]
    assert len(set(contents)) == 400
    assert SMALLEST_BYTES <= sizes[0] < 4_000
    assert 7_000 < sizes[200] < 9_500
    assert 20_000 < sizes[-1] <= LARGEST_BYTES
