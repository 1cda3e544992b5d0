"""Held tasks in a worker that gets a signal in the midst of its use of the broker connection.

``INTERRUPT`` holds the place, and the signals to raise there, in order: ``read SIGQUIT SIGQUIT``. The main thread
raises them at the first passage of that place after the file ``INTERRUPT_NOW`` is there, which it removes.
With ``INTERRUPT_HANGS`` it stays there, as where a broker does not answer.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import kombu.connection
import redis.connection
from amqp.transport import TCPTransport
from celery import shared_task
from kombu.messaging import Producer
from kombu.transport import virtual

from tests.integration import held_tasks

__all__ = ["held_tasks"]


@shared_task(name="h.fork")
def fork(number: int) -> int:
    """Signal a process that is a copy of the worker's; returns its exit code, as `subprocess` has it."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), number)
        for _ in range(1000):  # a handler runs between two instructions
            pass
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_HEADER_BYTES = 7


def _passes_always(*_: Any) -> bool:
    return True


def _reads_header(_self: Any, size: int, *_: Any) -> bool:
    """Tell whether the rest of the frame is to be read next."""
    return size == _HEADER_BYTES


#: The functions in which each place is, and the calls that count. They are left half done: a frame is read in part,
#: packed and not sent, or an answer is owed.
PLACES: dict[str, list[tuple[Any, str, Callable[..., bool]]]] = {
    "read": [
        (TCPTransport, "_read", _reads_header),
        (redis.connection.AbstractConnection, "read_response", _passes_always),
    ],
    "write": [
        (TCPTransport, "write", _passes_always),
        (redis.connection.AbstractConnection, "send_packed_command", _passes_always),
    ],
    "ack": [
        (amqp.Channel, "basic_ack", _passes_always),
        (virtual.QoS, "ack", _passes_always),
    ],
    "publish": [(Producer, "_publish", _passes_always)],
    "fork": [],
    "connect": [(kombu.connection.Connection, "_establish_connection", _passes_always)],
}

#: Where the signal comes after the call, not before it.
AFTER = ("_read", "send_packed_command", "_establish_connection")


def _is_caught() -> bool:
    """Tell whether the worker has its handlers already: before that, a signal just ends it."""
    return callable(signal.getsignal(signal.SIGQUIT))


def _interrupt(owner: Any, name: str, counts: Callable[..., bool], numbers: list[signal.Signals], now: Path) -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def interrupted(*args: Any, **options: Any) -> Any:
        done = inner(*args, **options) if name in AFTER else None
        if threading.current_thread() is threading.main_thread() and counts(*args) and _is_caught() and now.exists():
            now.unlink()
            os.write(2, f"\ninterrupted in {owner.__name__}.{name}\n".encode())
            for number in numbers:
                signal.raise_signal(number)
            if "INTERRUPT_HANGS" in os.environ:
                time.sleep(3600)
        return done if name in AFTER else inner(*args, **options)

    setattr(owner, name, interrupted)


if "INTERRUPT" in os.environ and "worker" in sys.argv:
    _place, *_names = os.environ["INTERRUPT"].split()
    for _owner, _name, _counts in PLACES[_place]:
        _numbers = [signal.Signals[each] for each in _names]
        _interrupt(_owner, _name, _counts, _numbers, Path(os.environ["INTERRUPT_NOW"]))
