"""Output that nobody reads any more, as in ``asyncworker sftp ls URL | head``."""

from __future__ import annotations

import os
import select
import sys

__all__ = ["flush_output", "stop_output"]


def stop_output() -> bool:
    """Return whether standard output or error is a pipe without a reader; what is still to be written there is dropped.

    A broken pipe may also be that of a connection to a server, which is an error like others.
    """
    unread = [number for number in (1, 2) if _has_no_reader(number)]
    if unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in unread:
            os.dup2(nowhere, number)  # else Python complains when it flushes its buffers at the end
        os.close(nowhere)
    return bool(unread)


def flush_output() -> None:
    """Flush standard output and error; what nobody reads any more is dropped without a word."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            stop_output()
        except (OSError, ValueError, AttributeError):  # a full disk, or a stream that is closed or none
            return


def _has_no_reader(number: int) -> bool:
    try:
        poll = select.poll()
        poll.register(number, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except OSError:
        return False
