"""Messages by chance: after any of them the worker answers, a good task runs, and each bad one is a dead letter, once.

``pytest tests/chaos/test_message_fuzz.py --chaos-seed N --chaos-tasks M`` for another run, and a longer one.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, states
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.chaos.messages import Broker, Envelope, RabbitQueue, RedisQueue, call, dead_letters
from tests.chaos.test_messages import KEPT_BYTES, broker, check_alive, client  # noqa: F401 - fixtures
from tests.integration import tasks
from tests.servers.worker import Worker

WAIT_S = 120.0
#: Messages between two looks.
BATCH = 20

_text = st.text(st.characters(exclude_categories=()), max_size=20)
_plain_text = st.text(st.characters(codec="utf-8"), max_size=20)
_fields = st.sampled_from(
    [
        *("task", "id", "root_id", "parent_id", "group", "retries", "timelimit", "eta", "expires", "stamps"),
        *("stamped_headers", "shadow", "argsrepr", "lang", "origin", "replaced_task_nesting", "compression"),
    ]
)


def values(text: st.SearchStrategy[str], most: int) -> st.SearchStrategy[Any]:
    """Any value of JSON, or of AMQP's tables."""
    leaves = st.none() | st.booleans() | st.integers(-most, most) | text
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))


def bodies(value: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Bytes, documents that are no call, and calls of wrong parts."""
    parts = st.lists(value, min_size=3, max_size=3)
    return st.binary(max_size=200) | (value | parts).map(lambda document: json.dumps(document).encode())


def envelopes(value: st.SearchStrategy[Any], text: st.SearchStrategy[str]) -> st.SearchStrategy[Envelope]:
    """A good message with some parts that are not."""
    return st.builds(
        lambda headers, body, content_type: replace(
            call(1, 2, **headers) if body is None else call(body=body, **headers),
            content_type=content_type,
        ),
        st.dictionaries(_fields, value, max_size=2),
        st.none() | bodies(value),
        st.just("application/json") | text,
    )


def _cut(entry: bytes, start: int, length: int, patch: bytes) -> bytes:
    start %= len(entry)
    return entry[:start] + patch + entry[start + length :]


#: What is pushed into a list of Redis: bytes, and messages with a hole or a patch.
entries = st.binary(min_size=1, max_size=300) | st.builds(
    lambda start, length, patch: _cut(call(1, 2).stored(), start, length, patch),
    st.integers(0, 2000),
    st.integers(0, 100),
    st.binary(max_size=5),
)

#: A message, or an entry.
Item = Envelope | bytes

REDIS: st.SearchStrategy[list[Item]] = st.lists(
    envelopes(values(_text, 10**40), _text) | entries, min_size=BATCH, max_size=BATCH
)
RABBITMQ: st.SearchStrategy[list[Item]] = st.lists(
    envelopes(values(_plain_text, 1 << 62), _plain_text), min_size=BATCH, max_size=BATCH
)


class Fuzz:
    """Puts messages, and accounts for each: it has run, or it is a dead letter."""

    def __init__(self, queue: Broker, app: Celery[Any], node: Worker, state_dir: Path) -> None:
        self._queue = queue
        self._app = app
        self._node = node
        self._state_dir = state_dir
        self._numbers: Iterator[int] = itertools.count()
        self._letters = 0
        self.ran = self.kept = 0

    def check(self, items: list[Item]) -> None:
        """Put some, and wait until all are accounted for."""
        put = [each for each in map(self._put, items) if each is not None]
        check_alive(self._node, self._app)
        give_up_at_s = time.monotonic() + WAIT_S
        while (counted := self._counted(put)) != len(put):
            assert time.monotonic() < give_up_at_s, f"{counted} of {len(put)}: {put}\n{self._node.log()[-20000:]}"
            time.sleep(0.1)
        self._check_letters(put)
        self.kept += self._new_letters()
        self.ran += len(put) - self._new_letters()
        self._letters += self._new_letters()

    def _check_letters(self, put: list[Item]) -> None:
        """Each says why, and has the beginning of the message."""
        letters = {letter.task_id: letter for letter in dead_letters(self._state_dir)}
        assert all(letter.reason for letter in letters.values())
        for item in put:
            task_id = item.headers.get("id") if isinstance(item, Envelope) else None
            if isinstance(item, Envelope) and isinstance(task_id, str) and task_id in letters:
                assert letters[task_id].message == item.body[:KEPT_BYTES]

    def _put(self, item: Item) -> Item | None:
        number = next(self._numbers)
        if isinstance(item, bytes):
            assert isinstance(self._queue, RedisQueue)
            item = b"%d " % number + item  # no two are the same
            self._queue.put_raw(item)
            return item
        item = replace(item, headers={**item.headers, "number": number})
        try:
            self._queue.put(item)
        except Exception:
            assert isinstance(self._queue, RabbitQueue)  # AMQP has no form for it
            return None
        return item

    def _new_letters(self) -> int:
        return len(dead_letters(self._state_dir)) - self._letters

    def _counted(self, put: list[Item]) -> int:
        kept = {letter.task_id for letter in dead_letters(self._state_dir)}
        ran = 0
        for item in put:
            task_id = item.headers.get("id") if isinstance(item, Envelope) else None
            # A task that is not known has a state, too.
            if isinstance(task_id, str) and task_id not in kept:
                ran += self._has_run(task_id)
        return ran + self._new_letters()

    def _has_run(self, task_id: str) -> bool:
        try:
            return self._app.AsyncResult(task_id).state in states.READY_STATES
        except (UnicodeError, ValueError):
            return False


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("transport", ["redis", "redis-stock", "rabbitmq"])
@pytest.mark.promise("no-message-ends-a-worker")
def test_any_message_is_run_or_kept(
    worker: Callable[..., Worker],
    broker: Broker,  # noqa: F811
    client: Celery,  # noqa: F811
    state_dir: Path,
    transport: str,
    pytestconfig: pytest.Config,
) -> None:
    node = worker(tasks.__name__, "-c", "20", "--without-mingle")
    fuzz = Fuzz(broker, client, node, state_dir)
    examples = max(1, pytestconfig.getoption("chaos_tasks") // BATCH)

    @seed(pytestconfig.getoption("chaos_seed"))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(RABBITMQ if transport == "rabbitmq" else REDIS)
    def check(items: list[Item]) -> None:
        fuzz.check(items)

    check()
    broker.wait_until_settled()
    assert fuzz.kept
    assert fuzz.ran
    assert node.stop() == 0
