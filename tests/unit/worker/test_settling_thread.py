"""In debug mode a message that is settled off the consumer's thread is a violation."""

from __future__ import annotations

import threading

from asyncworker.loop.debug import violations
from asyncworker.worker.outbox import OutboxThread
from asyncworker.worker.pool import _check_thread


def _on_thread(name: str) -> None:
    thread = threading.Thread(target=_check_thread, name=name)
    thread.start()
    thread.join()


def test_only_the_consumers_thread_and_its_stand_in_settle_messages() -> None:
    _check_thread()
    _on_thread(OutboxThread.NAME)
    assert not violations
    _on_thread("asyncworker-loop")
    assert ["settled off the consumer's thread" in each for each in violations] == [True]
    violations.clear()
