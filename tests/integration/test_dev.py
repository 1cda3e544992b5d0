"""``asyncworker dev``: a broker and a worker for a module, as a user runs it."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.servers.worker import ROOT

ASYNCWORKER = [sys.executable, "-c", "from asyncworker.cli import main; main()"]

#: The README's task, and what it says of it.
README = (ROOT / "README.md").read_text()
MODULE = re.findall(r"```python\n(# shop\.py\n.*?)```", README, re.DOTALL)[0]
CALL = 'shop.restock.delay("A-17").get()'


def environment(state_dir: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "ASYNCWORKER_STATE_DIR": str(state_dir)}


class Dev:
    """``asyncworker dev`` in the background, read line by line."""

    def __init__(self, folder: Path, state_dir: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*ASYNCWORKER, "dev", *arguments],
            cwd=folder,
            env=environment(state_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, text: str) -> str:
        assert self.process.stdout is not None
        while text not in self.output:
            line = self.process.stdout.readline()
            assert line, f"it ended without {text!r}:\n{self.output}"
            self.output += line
        return self.output

    def exports(self) -> dict[str, str]:
        words = shlex.split(" ".join(re.findall(r"export (.*)", self.read_until(" ready."))))
        return dict(word.split("=", 1) for word in words)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        self.output += self.process.communicate(timeout=120)[0]
        return self.process.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    (path / "shop.py").write_text(MODULE)
    return path


@pytest.fixture
def dev(folder: Path, state_dir: Path) -> Iterator[Dev]:
    running = Dev(folder, state_dir, "shop", "-c", "7")
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.promise("dev-needs-no-server")
def test_a_client_in_another_shell_gets_an_answer_and_ctrl_c_stops_all(
    dev: Dev, folder: Path, number: signal.Signals
) -> None:
    client_env = {**os.environ, "PYTHONPATH": str(ROOT), **dev.exports()}
    children = psutil.Process(dev.process.pid).children(recursive=True)
    assert len(children) == 2
    answer = subprocess.run(
        [sys.executable, "-c", f"import shop; print({CALL})"],
        cwd=folder,
        env=client_env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert CALL in README
    assert answer.stdout == "A-17 is back\n"
    assert dev.end(number) == 128 + number
    assert "Traceback" not in dev.output
    _gone, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_killed_it_leaves_no_process(dev: Dev) -> None:
    dev.exports()
    children = psutil.Process(dev.process.pid).children(recursive=True)
    assert dev.end(signal.SIGKILL) == -signal.SIGKILL
    _gone, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_a_worker_that_is_killed_ends_it_with_a_word(dev: Dev) -> None:
    after = dev.read_until(" ready.").partition("export ")[2]
    assert "concurrency:" not in after  # Celery's banner, which would push it out of sight
    for child in psutil.Process(dev.process.pid).children():
        if "celery" in child.cmdline():
            child.kill()
    assert dev.process.wait(120) == 128 + signal.SIGKILL
    assert dev.process.stdout is not None
    assert "Error: the worker was killed by SIGKILL" in dev.process.stdout.read()


def test_a_state_folder_that_cannot_be_made_names_the_setting(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = subprocess.run(
        [*ASYNCWORKER, "dev", "shop"],
        cwd=folder,
        env=environment(tmp_path / "file" / "state"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "ASYNCWORKER_STATE_DIR" in line


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'broken'"),
        ("import nowhere", r"ModuleNotFoundError: No module named 'nowhere' \(.*broken.py, line 1\)"),
        ("x = 1\nx.y", r"AttributeError: 'int' object has no attribute 'y' \(.*broken.py, line 2\)"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit('no')", r"SystemExit: no \(.*broken.py, line 1\)"),
    ],
)
def test_a_module_that_does_not_import_is_told_in_one_line_before_anything_starts(
    folder: Path, state_dir: Path, source: str | None, reason: str
) -> None:
    if source is not None:
        (folder / "broken.py").write_text(source)
    answer = subprocess.run(
        [*ASYNCWORKER, "dev", "broken"],
        cwd=folder,
        env=environment(state_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert re.fullmatch(rf"Error: cannot import broken: {reason}\n", answer.stderr)
    assert answer.stdout == ""
    assert list(state_dir.iterdir()) == []


def test_a_file_in_the_place_of_a_module_is_answered_with_the_name_of_the_module(folder: Path, state_dir: Path) -> None:
    (folder / "broken.py").write_text("")
    answer = subprocess.run(
        [*ASYNCWORKER, "dev", "broken.py"],
        cwd=folder,
        env=environment(state_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.endswith("give the name of the module, not of its file: broken\n")


def test_a_wrong_setting_is_told_in_one_line(folder: Path, state_dir: Path) -> None:
    env = {**environment(state_dir), "ASYNCWORKER_SYNC_THREADS": "lots"}
    answer = subprocess.run(
        [*ASYNCWORKER, "dev", "shop"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr == "Error: ASYNCWORKER_SYNC_THREADS is 'lots': expected `int`, got `str`\n"
