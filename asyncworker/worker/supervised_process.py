"""One process of a supervisor: its two-way pipe, its output until it is ready, and its end."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Mapping

from asyncworker.processes import Child
from asyncworker.worker.supervised import ENOUGH, LEAVING, READY, Command

__all__ = ["WorkerProcess"]

#: The output of a process is held back for so long, and so much of it: of one that fails as the one before it,
#: nothing of it is repeated.
HELD_S, HELD_BYTES = 20.0, 1 << 20

_LONGEST_REASON = 400


class WorkerProcess:
    """A worker that was started, seen from its supervisor.

    Attributes:
        node: The node name that it was started with.
        ready_at_s: Since when it takes tasks, in monotonic time; ``None``: not yet.
        enough: Why it wants to be replaced; empty: it does not.
        leaving: It ends by remote control, and is not to be replaced.
        kill_at_s: It was told to end, and is killed then.
        retiring: It takes no more tasks, and ends when those that it runs have ended.

    Args:
        node: Its node name.
        command: Makes its command line.
        env: Its environment.
        hold_output: Keep back what it writes until it is ready, or takes long.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, node: str, command: Command, *, env: Mapping[str, str], hold_output: bool) -> None:
        self.node = node
        self.ready_at_s: float | None = None
        self.enough = ""
        self.leaving = self.retiring = False
        self.kill_at_s: float | None = None
        self._heard = b""
        self._held = b""
        self._output = -1
        self._discard = False
        self._show_at_s = time.monotonic() + HELD_S
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as ours:
            self._link, theirs = socket.socketpair()
            on_failure.callback(self._link.close)
            ours.callback(theirs.close)
            self._link.setblocking(False)
            keep, streams = [theirs.fileno()], ""
            output = None
            if hold_output:
                self._output, output = os.pipe()
                on_failure.callback(os.close, self._output)
                ours.callback(os.close, output)
                os.set_blocking(self._output, False)
                # Its own streams, which it goes over to once it is ready.
                real = [os.dup(1), os.dup(2)]
                for each in real:
                    ours.callback(os.close, each)
                keep += real
                streams = ",".join(map(str, real))
            self.child = Child(command(theirs.fileno(), streams), env=env, keep_fds=keep, output=output)
            on_failure.pop_all()

    @property
    def descriptors(self) -> list[int]:
        """Descriptors that become readable when the process sends or writes something."""
        return [fd for fd in (self._link.fileno(), self._output) if fd >= 0]

    @property
    def show_at_s(self) -> float | None:
        """When its output is no longer held back; ``None``: it is not, or nothing waits."""
        return self._show_at_s if self._held else None

    def tell(self, word: bytes) -> None:
        """Say something to it."""
        with contextlib.suppress(OSError):  # its end is noticed elsewhere
            self._link.send(word + b"\n")

    def listen(self) -> None:
        """Hear what it has said, and take what it has written."""
        self._take_output()
        if self._link.fileno() < 0:
            return
        try:
            heard = self._link.recv(4096)
        except BlockingIOError:
            heard = None
        except OSError:
            heard = b""
        if heard == b"":
            # At its end the link would be readable for ever; that a process has ended, SIGCHLD says.
            self._link.close()
        *lines, self._heard = (self._heard + (heard or b"")).split(b"\n")
        for line in lines:
            if line == READY:
                self.ready_at_s = time.monotonic()
                self.show_output()
            elif line == LEAVING:
                self.leaving = True
            elif line.startswith(ENOUGH):
                self.enough = self.enough or line.removeprefix(ENOUGH).decode(errors="replace")

    def _take_output(self) -> None:
        while self._output >= 0:
            try:
                written = os.read(self._output, 1 << 16)
            except BlockingIOError:
                break
            if not written:
                os.close(self._output)
                self._output = -1
            self._held += written
        if self.ready_at_s is not None or time.monotonic() >= self._show_at_s or len(self._held) > HELD_BYTES:
            self.show_output()

    def show_output(self) -> None:
        """Write what was held back of its output to our own."""
        held, self._held = self._held, b""
        if self._discard:
            return
        with contextlib.suppress(OSError):
            while held:
                held = held[os.write(2, held) :]

    def discard_output(self) -> None:
        """Never show what is held back."""
        self._discard = True

    def reason(self) -> str:
        """Return the last line that it has written while that was held back; empty: none."""
        lines = re.sub(r"\x1b\[[\d;]*m", "", self._held.decode(errors="replace")).split("\n")
        return next((line.strip()[:_LONGEST_REASON] for line in reversed(lines) if line.strip()), "")

    def end(self) -> int | None:
        """Take leave of it once it has ended; return its exit code, or ``None`` while it runs.

        What it had started in its session ends with it, unless it has ended well.
        """
        code = self.child.end_of_all()
        if code is not None:
            self.listen()
            self._link.close()
            if self._output >= 0:
                os.close(self._output)
                self._output = -1
        return code


def output_is_held(*, tried_before: bool) -> bool:
    """Return whether to hold a process's output; on a terminal, where it may have colours, only that of a retry."""
    return tried_before or not sys.stderr.isatty()
