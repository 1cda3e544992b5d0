"""Children die with their owner, and are ended for certain."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from asyncworker.cli.processes import Child

IDLE = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]

#: Starts a child, says its id, and waits to be killed.
OWNER = """
import sys, time
from asyncworker.cli.processes import Child
child = Child([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_output_goes_to_the_log_and_the_exit_code_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier process\n")
    child = Child([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], log=log)
    assert child.wait(120) == 1
    assert child.log() == "err\nout\n" or child.log() == "out\nerr\n"
    assert log.read_text().startswith("of an earlier process\n")


def test_arguments_and_environment_arrive_as_they_are(tmp_path: Path) -> None:
    arguments = ["a b", "", "$HOME", "'", "ü"]
    program = "import os, sys; print(sys.argv[1:], os.environ['NAME'], os.getcwd())"
    with Child(
        [sys.executable, "-c", program, *arguments], log=tmp_path / "log", env={"NAME": "value"}, cwd=tmp_path
    ) as child:
        child.wait(120)
        assert child.log() == f"{arguments} value {tmp_path}\n"


def test_it_has_a_session_of_its_own(tmp_path: Path) -> None:
    with Child(IDLE, log=tmp_path / "log") as child:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_the_block_ends_it(tmp_path: Path) -> None:
    with Child(IDLE, log=tmp_path / "log") as child:
        assert child.wait_for_log("up", 60)
        assert child.returncode is None
    assert child.returncode == -signal.SIGTERM
    assert not psutil.pid_exists(child.pid)


def test_one_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    child = Child(DEAF, log=tmp_path / "log")
    assert child.wait_for_log("up", 60)
    assert child.stop(grace_s=0.05) == -signal.SIGKILL
    assert child.stop() == -signal.SIGKILL


def test_waiting_for_a_line_ends_when_the_process_does(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "print('one')"], log=tmp_path / "log")
    assert not child.wait_for_log("two", 30)
    assert child.wait_for_log("one", 30)
    assert child.log_tail() == "one"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_owner_however_that_dies(number: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        child = psutil.Process(int(owner.stdout.readline()))
        owner.send_signal(number)
        owner.wait(120)
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone
