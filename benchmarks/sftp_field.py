"""Who takes part in the SFTP benchmark, and how many of the files each is given."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from benchmarks import sftp_programs
from benchmarks.sftp_job import Job, Spent, run_python
from benchmarks.sftp_workers import CONCURRENCY, PROCESSES, Workers

__all__ = ["OURS", "Entry", "entries"]

OURS = "asyncworker, sftp.download()"

_NO_PARAMIKO = "" if find_spec("paramiko") else "paramiko is not installed: pip install -e '.[bench]'"


@dataclass(frozen=True)
class Entry:
    """One competitor.

    Attributes:
        name: Ours begin with ``asyncworker``.
        run: Does a job.
        near: One file of so many is given to it, where the server is near; 0: all.
        far: The same for the server behind the link.
        large: Whether it fetches the large file too.
        quick: Whether it takes part in the quick form.
        missing: Why it cannot take part.
    """

    name: str
    run: Callable[[Job], Spent]
    near: int = 1
    far: int = 1
    large: bool = False
    quick: bool = True
    missing: str = ""

    def part(self, distant: bool) -> int:
        """One file of so many is its share."""
        return self.far if distant else self.near


def entries(workers: Workers | None, why_no_workers: str, airflow_python: str) -> list[Entry]:
    """List all of them, those that cannot take part included."""
    far = {"sftp -b, get -r": 100}
    programs = [
        Entry(
            name,
            partial(sftp_programs.run, name),
            far=far.get(name, 1),
            large=True,
            quick=name not in ("sftp -b, get -r", "rsync -a"),
            missing=sftp_programs.missing(name),
        )
        for name in sftp_programs.PROGRAMS
    ]
    return [*programs, *_python_programs(airflow_python), *_ours(), *_workers(workers, why_no_workers)]


def _python_programs(airflow_python: str) -> list[Entry]:
    clients = "benchmarks.sftp_clients"
    return [
        Entry(
            "paramiko, one after the other",
            partial(run_python, f"{clients}:paramiko_get"),
            near=17,
            far=170,
            quick=False,
            missing=_NO_PARAMIKO,
        ),
        Entry("asyncssh, sftp.get", partial(run_python, f"{clients}:asyncssh_get"), 4, 8, large=True, quick=False),
        Entry("asyncssh, open + read + close", partial(run_python, f"{clients}:asyncssh_read"), 2, 4),
        Entry(
            "Airflow, SFTPClientPool",
            partial(run_python, "benchmarks.sftp_airflow:pool_retrieve", python=airflow_python),
            near=8,
            far=16,
            quick=False,
            missing=_no_airflow(airflow_python),
        ),
    ]


def _ours() -> list[Entry]:
    clients = "benchmarks.sftp_clients"
    return [
        Entry(OURS, partial(run_python, f"{clients}:download"), large=True),
        *_openssh(clients),
        Entry("asyncworker, await pool.get", partial(run_python, f"{clients}:pool_get")),
        Entry("asyncworker, pool.get_many", partial(run_python, f"{clients}:pool_get_many"), quick=False),
    ]


def _openssh(clients: str) -> list[Entry]:
    """Ours over the ``ssh`` program."""
    missing = "" if shutil.which("ssh") else "ssh is not installed (Debian: openssh-client)"
    return [
        Entry(
            f"asyncworker, {call}, openssh",
            partial(run_python, f"{clients}:{function}_openssh"),
            large=function == "download",
            quick=function == "download",
            missing=missing,
        )
        for call, function in (("sftp.download()", "download"), ("await pool.get", "pool_get"))
    ]


def _workers(workers: Workers | None, why_not: str) -> list[Entry]:
    def absent(_: Job) -> Spent:
        raise RuntimeError(why_not)

    return [
        Entry(
            f"Celery prefork x {PROCESSES}, paramiko, a message a file",
            workers.fetch_by_stock_messages if workers else absent,
            near=8,
            far=100,
            quick=False,
            missing=why_not or _NO_PARAMIKO,
        ),
        Entry(
            "asyncworker worker, a message a file",
            workers.fetch_by_messages if workers else absent,
            near=4,
            far=8,
            quick=False,
            missing=why_not,
        ),
        Entry(
            f"asyncworker worker, iterate, {CONCURRENCY} at once",
            workers.fetch_by_iterate if workers else absent,
            missing=why_not,
        ),
    ]


def _no_airflow(python: str) -> str:
    code = "from importlib.util import find_spec; raise SystemExit(not find_spec('airflow.providers.sftp.pools'))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        found = False
    return "" if found else "apache-airflow-providers-sftp is not installed; see --airflow-python"
