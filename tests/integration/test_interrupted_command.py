"""A command that is interrupted, or whose output nobody reads any more, ends without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.command import ROOT

#: Sends a signal to itself while a module is being imported, as a user's Ctrl-C would.
INTERRUPTED_IMPORT = """
import os, signal, sys
number, target = int(sys.argv.pop(1)), sys.argv.pop(1)
class Interrupts:
    def find_spec(self, name, path=None, module=None):
        if name == target:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Interrupts())
from asyncworker.__main__ import main
main()
print("it was not interrupted")
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("asyncworker.cli", ["sftp", "ls", "sftp://127.0.0.1:1/"]),
        ("click", ["sftp", "ls", "sftp://127.0.0.1:1/"]),
        ("asyncworker.cli.sftp", ["sftp", "ls", "sftp://127.0.0.1:1/"]),
        ("asyncssh", ["sftp", "get", "sftp://127.0.0.1:1/", "."]),
        ("celery", ["runs", "list"]),
        ("asyncworker.cli.doctor", ["doctor"]),
        ("asyncworker.default_app", ["limits", "list"]),
    ],
)
def test_during_the_imports_a_signal_ends_it_without_a_word(module: str, command: list[str], number: int) -> None:
    done = run(sys.executable, "-c", INTERRUPTED_IMPORT, str(int(number)), module, *command)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{INTERRUPTED_IMPORT}"
    done = run(sys.executable, "-c", code, str(int(signal.SIGHUP)), "asyncworker.cli.sftp", "sftp", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_as_a_module_and_as_a_program_it_is_the_same_command() -> None:
    as_module = run(sys.executable, "-m", "asyncworker", "--help")
    program = run(sys.executable, "-c", "from asyncworker.__main__ import main; main()", "--help")
    assert as_module.returncode == program.returncode == 0
    assert as_module.stdout == program.stdout
    assert as_module.stdout.startswith("Usage: asyncworker ")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("command", [["--help"], ["sftp", "get", "--help"], ["doctor", "--json"], ["runs", "list"]])
def test_output_that_nobody_reads_ends_a_command_without_a_word(
    command: list[str], stream: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "asyncworker", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "ASYNCWORKER_STATE_DIR": str(tmp_path)},
            text=True,
            **{stream: writer, other: subprocess.PIPE},  # type: ignore[call-overload]
        ) as process:
            said = "".join(filter(None, process.communicate(timeout=120)))
    finally:
        os.close(writer)
    assert "Broken pipe" not in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
