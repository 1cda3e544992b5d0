"""Child processes that die with their owner, write to a log file, and are ended for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from asyncworker.private_files import make_private_file

__all__ = ["Child", "die_with_owner"]

#: Runs between fork and exec of the child proper: Linux keeps a parent-death signal over exec. A program of its own
#: and no ``preexec_fn``, because that may deadlock in a process that has threads.
_LAUNCHER = """
import ctypes, os, sys
owner, number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG, see prctl(2)
if os.getppid() != owner:  # it died before the line above
    sys.exit(1)
os.execv(program[0], program)
"""

_POLL_S = 0.01


class Child:
    """One child process in a session of its own, so that a Ctrl-C in the terminal reaches only its owner.

    On Linux the kernel kills it when the thread that started it ends, however that happens; start children from a
    thread that lives as long as they should. Elsewhere they end with the ``with`` block or with :meth:`stop`.

    Args:
        args: The program, as an absolute path, and its arguments.
        log: Where its output goes, appended; ``None`` leaves it on the owner's own streams.
        env: The whole environment; ``None`` passes the owner's on.
        cwd: Where it runs.
        death_signal: What it gets when its owner dies.
        stop_signal: What :meth:`stop` asks it with.
        keep_fds: File descriptors that it inherits.
        umask: Of the files that it makes; ``None``: its owner's.
        output: A file descriptor for its output, where there is no ``log``.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        stop_signal: signal.Signals = signal.SIGTERM,
        keep_fds: Sequence[int] = (),
        umask: int | None = None,
        output: int | None = None,
    ) -> None:
        self.args = list(args)
        self.log_path = log
        self.stop_signal = stop_signal
        self._log_start = log.stat().st_size if log is not None and log.exists() else 0
        with contextlib.ExitStack() as files:
            if log is not None:
                make_private_file(log)
            written: IO[bytes] | int | None = files.enter_context(log.open("ab")) if log is not None else output
            self._process = subprocess.Popen(
                die_with_owner(self.args, death_signal),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=None if written is None else subprocess.STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=keep_fds,
                start_new_session=True,
                umask=-1 if umask is None else umask,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """Return what this process has written to its log file so far."""
        if self.log_path is None:
            return ""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log, for an error message."""
        return "\n".join(self.log().rstrip().splitlines()[-lines:])

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; return the exit code, or ``None`` when it still runs after that time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def wait_for_log(self, text: str, timeout_s: float) -> bool:
        """Wait until the log holds ``text``; false when the process ended, or the time passed, without it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log():
            if self.returncode is not None or time.monotonic() > deadline:
                return text in self.log()
            time.sleep(_POLL_S)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended is left alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with whatever it has started in its session, and reap it."""
        # The group outlives its leader where the leader left children; an ended, unreaped leader keeps the id ours.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def end_of_all(self) -> int | None:
        """Return the exit code once it has ended, else ``None``; after a bad end kill what it left in its session."""
        if self._process.returncode is None:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            if ended.si_code != os.CLD_EXITED or ended.si_status != 0:
                # Not reaped yet: its id, which is that of its group, is no other's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def stop(self, grace_s: float = 10.0) -> int:
        """Ask it to end, wait, then kill; return the exit code."""
        if self.returncode is None:
            self.signal(self.stop_signal)
        try:
            self.wait(grace_s)
        finally:
            self.kill()
        code = self.returncode
        assert code is not None
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def die_with_owner(args: list[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command of a program, given by its absolute path, that the kernel ends with the thread that starts it.

    Where there is no such kernel, that is the program's own command.
    """
    if sys.platform != "linux":
        return args
    # -I and -S: nothing of the user's environment or site-packages is loaded for these few lines.
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(death_signal)), *args]
