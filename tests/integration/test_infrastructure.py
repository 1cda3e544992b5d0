"""The tests' own safeguards work."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from blockbuster import BlockingError

from asyncworker.cli.embedded import EmbeddedServer
from tests.conftest import REQUIRE_SERVERS, left_processes, missing_server_skips
from tests.servers import MissingServer
from tests.servers.worker import ROOT

DETACHING = """
import subprocess, sys
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True, **quiet).pid)
"""


async def test_a_call_of_ours_that_blocks_the_loop_is_caught(valkey: EmbeddedServer) -> None:
    with pytest.raises(BlockingError, match=r"socket\.connect"):
        valkey.ping()


def test_outside_a_loop_it_may_block(valkey: EmbeddedServer) -> None:
    assert valkey.ping()


def test_a_detached_process_is_found() -> None:
    # Its parent ends at once, so it is nobody's child any more.
    said = subprocess.run([sys.executable, "-c", DETACHING], capture_output=True, text=True, check=True)
    process = psutil.Process(int(said.stdout))
    try:
        assert process in left_processes()
    finally:
        process.kill()
        psutil.wait_procs([process], timeout=60)


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_server_skips_or_fails(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(REQUIRE_SERVERS, required)
    with pytest.raises(outcome, match="no sshd"), missing_server_skips():
        raise MissingServer("no sshd")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_session_that_leaves_a_process_fails(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_careless.py").write_text(
        "import subprocess, sys\n"
        "def test_it():\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-W", "ignore"]
    session = subprocess.run(
        [*command, "-n", processes, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert session.returncode == 1
    assert "1 passed" in session.stdout
    assert "left behind by a test: process" in session.stdout
