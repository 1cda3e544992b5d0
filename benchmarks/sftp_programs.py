"""Programs that fetch a folder over SSH, each at the best settings that were found for it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.sftp_job import Job, Spent, run_program

__all__ = ["PROGRAMS", "missing", "run"]


def _tar(job: Job) -> Sequence[str]:
    there = shlex.quote(f"tar cf - -C {shlex.quote(job.remote)} .")
    login = f"{job.login.username}@{job.login.host}"
    # `set -e` with pipefail: a transfer that broke off is not a fast one.
    line = f"set -euo pipefail; {job.login.ssh()} {login} {there} | tar xf - -C {shlex.quote(job.local)}"
    return ("bash", "-c", line)


def _rsync(job: Job) -> Sequence[str]:
    login = f"{job.login.username}@{job.login.host}"
    return ("rsync", "-a", "--whole-file", "-e", job.login.ssh(), f"{login}:{job.remote}/", f"{job.local}/")


def _sftp(job: Job) -> Sequence[str]:
    batch = Path(f"{job.local}.batch")
    # Not "folder/*": sftp expands that itself, which takes a round trip a name.
    batch.write_text(f"get -r {job.remote}/. {job.local}\n")
    login = f"{job.login.username}@{job.login.host}"
    return (
        *("sftp", "-F", "none", "-q", "-i", job.login.client_key, "-P", str(job.login.port)),
        *job.login.ssh_options(),
        *("-R", "256", "-B", "261120", "-b", str(batch), login),
    )


def _lftp(job: Job) -> Sequence[str]:
    parallel = 4 if not job.distant else 64
    large = "--use-pget-n=4" if job.files < parallel else ""
    script = (
        "set cmd:fail-exit yes; set net:max-retries 2; set sftp:auto-confirm no; set xfer:use-temp-file no; "
        # With READs of 256 KB it waits for ever for the bytes that OpenSSH leaves out of each.
        "set sftp:size-read 64k; set sftp:max-packets-in-flight 64; "
        f"set sftp:connect-program {shlex.quote(job.login.ssh())}; "
        # A password that is not asked for: without one, lftp asks.
        f"open -u {job.login.username},none sftp://{job.login.host}:{job.login.port}; "
        f"mirror --parallel={parallel} --no-perms {large} {shlex.quote(job.remote)}/ {shlex.quote(job.local)}/"
    )
    return ("lftp", "--norc", "-c", script)


def _rclone(job: Job) -> Sequence[str]:
    transfers = 8 if not job.distant else 128
    return (
        *("rclone", "copy", "--config", "/dev/null", "--quiet", f":sftp:{job.remote}", job.local),
        *("--sftp-host", job.login.host, "--sftp-port", str(job.login.port), "--sftp-user", job.login.username),
        *("--sftp-key-file", job.login.client_key, "--sftp-known-hosts-file", job.login.known_hosts),
        *("--sftp-disable-hashcheck", "--no-check-dest", "--transfers", str(transfers), "--sftp-chunk-size", "255k"),
        *("--multi-thread-cutoff", "16M", "--multi-thread-streams", "4"),
    )


#: Name, what must be on PATH, its Debian package, how it is called.
PROGRAMS: dict[str, tuple[Sequence[str], str, Callable[[Job], Sequence[str]]]] = {
    "tar over ssh": (("ssh", "tar", "bash"), "openssh-client", _tar),
    "rsync -a": (("ssh", "rsync"), "rsync", _rsync),
    "sftp -b, get -r": (("sftp",), "openssh-client", _sftp),
    "lftp mirror": (("ssh", "lftp"), "lftp", _lftp),
    "rclone copy": (("rclone",), "rclone", _rclone),
}


def missing(name: str) -> str:
    """Say what that program lacks; empty if it can run."""
    wanted, package, _ = PROGRAMS[name]
    absent = [program for program in wanted if shutil.which(program) is None]
    return f"{', '.join(absent)} not installed (Debian: {package})" if absent else ""


def run(name: str, job: Job) -> Spent:
    """Let it do the job."""
    return run_program(PROGRAMS[name][2](job))
