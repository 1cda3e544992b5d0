"""What a competitor is given, and how it is measured: wall time, processor time and memory of it and its children."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

__all__ = ["Job", "Login", "Spent", "run_here", "run_program", "run_python"]

#: A competitor that takes longer is given up.
_LIMIT_S = 300.0
#: How often memory is looked at.
_LOOK_S = 0.1

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Login:
    """A server, and how to log in."""

    host: str
    port: int
    username: str
    client_key: str
    known_hosts: str

    def ssh(self) -> str:
        """The ``ssh`` command line for it, with the fastest of its ciphers and nothing of the user's own."""
        return shlex.join(
            ["ssh", "-F", "none", "-a", "-x", "-i", self.client_key, "-p", str(self.port), *self.ssh_options()]
        )

    def ssh_options(self) -> list[str]:
        """Options that ``ssh`` and ``sftp`` have in common."""
        options = (
            f"UserKnownHostsFile={self.known_hosts}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "Ciphers=aes128-gcm@openssh.com",
            "BatchMode=yes",
        )
        return [word for option in options for word in ("-o", option)]


@dataclass(frozen=True)
class Job:
    """A folder to fetch.

    Attributes:
        login: From where.
        remote: The folder there; each competitor lists it.
        local: An empty folder.
        files: How many files there are.
        distant: Whether the server is behind the delay link: some settings are best here and others there.
        transport: Of ours, where that is to be chosen.
    """

    login: Login
    remote: str
    local: str
    files: int
    distant: bool = False
    transport: str = ""


@dataclass(frozen=True)
class Spent:
    """What a job took: of the process and its children, except that memory is that of the largest one."""

    wall_s: float
    cpu_s: float
    memory_bytes: float


def run_program(command: Sequence[str]) -> Spent:
    """Run a program to its end.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    began_at = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # its children end with it
    )
    assert process.stderr is not None
    limit = threading.Timer(_LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    memory = _MemoryWatch(process.pid)
    memory.start()
    try:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        limit.cancel()
        memory.stop()
    wall_s = time.perf_counter() - began_at
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return Spent(wall_s, usage.ru_utime + usage.ru_stime, memory.most_bytes)


def run_python(fetch: str, job: Job, python: str = sys.executable) -> Spent:
    """Run ``module:function`` in a fresh interpreter. Time counts from when its imports are done.

    Raises:
        RuntimeError: It failed; with the end of its traceback.
    """
    command = [python, "-c", "from benchmarks.sftp_job import run_here; run_here()", fetch, json.dumps(asdict(job))]
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    try:
        done = subprocess.run(command, capture_output=True, env=env, cwd=_ROOT, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{fetch} took more than {_LIMIT_S:g} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{fetch} failed: {done.stderr[-1500:]}")
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def run_here() -> None:
    """The other side of :func:`run_python`."""
    module, _, function = sys.argv[1].partition(":")
    fetch: Callable[[Job], None] = getattr(__import__(module, fromlist=[function]), function)
    given = json.loads(sys.argv[2])
    job = Job(**{**given, "login": Login(**given["login"])})
    cpu_before = _cpu_s()
    began_at = time.perf_counter()
    fetch(job)
    spent = Spent(time.perf_counter() - began_at, _cpu_s() - cpu_before, _peak_bytes(os.getpid()))
    print(json.dumps(asdict(spent)))


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class _MemoryWatch(threading.Thread):
    """Looks at a program and its children every so often.

    Not ``ru_maxrss``: that begins with the size of the process that the program was forked from.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.most_bytes = 0.0

    def run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            for pid in (self._pid, *_children(self._pid)):
                self.most_bytes = max(self.most_bytes, _peak_bytes(pid))

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _peak_bytes(pid: int) -> float:
    """The most memory that a process has had, where the system tells it, else what it has."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return float(found[1]) * 1024 if found else 0.0
    except OSError:
        pass
    try:
        return float(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0
