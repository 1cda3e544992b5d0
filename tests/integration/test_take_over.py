"""A lone worker that starts after another has died takes over one lease after its first look, counted in polls."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.iterate import RunOutcome, execute_run, make_options, source_of
from asyncworker.loop import get_loop_thread
from asyncworker.settings import Settings
from asyncworker.store import Leases, RunRequest, Store, open_store, shared_store
from asyncworker.worker.job import Job, Reports
from asyncworker.worker.leases import LeaseKeeper
from asyncworker.worker.ownership import BEATS_A_LEASE, Owner, on_suspicion, suspects
from asyncworker.worker.transport import SocketTransport
from tests.unit.iterate.clocks import InstantClock

LEASE_S = 30.0
REPORTS = Reports(*[lambda *_: None] * 4)
SOURCE = source_of({"x": range(3)})


def on_loop(coroutine: Any) -> Any:
    return get_loop_thread().run(coroutine, timeout_s=60)


@pytest.fixture
def channel(valkey: EmbeddedServer) -> Iterator[Any]:
    with Connection(valkey.broker_url.removeprefix("redis+"), transport=SocketTransport) as connection:
        yield connection.default_channel


class Newcomer:
    """A worker that has just started: it looks at the broker and at the store."""

    def __init__(self, tmp_path: Path, channel: Any) -> None:
        self.clock = InstantClock()
        url = f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}"
        self.settings = Settings(store_url=url, lease_s=LEASE_S)
        self.channel = channel
        self.owner = Owner(LEASE_S, self.clock)
        self.keeper = LeaseKeeper(self.settings, lambda _job: None, self.clock)

    def before(self, work: Callable[[Store], Awaitable[None]]) -> None:
        """Do what another process has done to the store, which this one has not opened yet."""

        async def main() -> None:
            store = await open_store(self.settings.store_url_or_default())
            await work(store)
            await store.close()

        on_loop(main())

    def look(self) -> None:
        self.owner.beat(self.channel)
        on_loop(self.keeper.look())

    def looks_until_released(self, other: Other) -> int:
        """Look once a poll, until the broker's messages of another owner have returned to their queues."""
        self.look()
        for polls in range(1, 100):
            self.clock.seconds += LEASE_S / BEATS_A_LEASE
            self.look()
            if not self.channel.client.hexists(self.channel.owners_name, other.id):
                return polls
        raise AssertionError("it was never released")


@pytest.fixture
def newcomer(tmp_path: Path, channel: Any) -> Iterator[Newcomer]:
    started = Newcomer(tmp_path, channel)
    yield started
    started.owner.lose()


class Other:
    """Another process, as the broker knows it."""

    def __init__(self, channel: Any) -> None:
        self.id = uuid.uuid4().hex
        self._channel = channel

    def beat(self) -> None:
        self._channel.client.hincrby(self._channel.owners_name, self.id, 1)


@pytest.fixture
def dead(channel: Any) -> Other:
    """A process that has died after it left a heartbeat."""
    other = Other(channel)
    other.beat()
    return other


@pytest.mark.promise("silent-holder-is-taken-over")
def test_a_long_task_is_taken_over_when_its_message_comes_back(newcomer: Newcomer, dead: Other) -> None:
    async def hold(store: Store) -> None:
        assert not await Leases(store, "the dead one").claim({"one/0": newcomer.clock.now()})

    newcomer.before(hold)
    assert newcomer.looks_until_released(dead) <= BEATS_A_LEASE + 1
    job = Job(print, ("t.late", "one", {"id": "one"}), REPORTS, soft_timeout_s=None, timeout_s=None)
    assert on_loop(newcomer.keeper.wait_for_holder(job))
    assert job.leased
    assert len(newcomer.clock.slept) <= 1


@pytest.mark.promise("crash-needs-no-resume")
def test_a_fan_out_goes_on_when_its_message_comes_back(newcomer: Newcomer, dead: Other) -> None:
    fingerprint = SOURCE.fingerprint(b"fixed")
    slept_before: list[int] = []

    async def call(row: dict[str, Any]) -> int:
        slept_before.append(len(newcomer.clock.slept))
        return int(row["x"])

    async def hold(store: Store) -> None:
        await store.begin_run(RunRequest(run_id="run", task="task", fingerprint=fingerprint, total=3))

    async def take_over() -> RunOutcome:
        store = await shared_store(newcomer.settings)
        return await execute_run(
            call, SOURCE, make_options(), store=store, run_id="run", task="task", fingerprint=fingerprint,
            redelivered=True, lease_s=LEASE_S, clock=newcomer.clock,
        )  # fmt: skip

    newcomer.before(hold)
    assert newcomer.looks_until_released(dead) <= BEATS_A_LEASE + 1
    outcome = on_loop(take_over())
    assert (outcome.progress.attempt, outcome.progress.done) == (2, 3)
    assert slept_before[0] <= 2  # one for the holder, one for the checkpoints that begin


def test_the_first_look_at_another_process_is_reason_enough_to_watch(newcomer: Newcomer, dead: Other) -> None:
    noticed: list[bool] = []
    with on_suspicion(lambda: noticed.append(suspects())):
        newcomer.owner.beat(newcomer.channel)
        assert noticed == [True]
        dead.beat()
        newcomer.clock.seconds += LEASE_S / BEATS_A_LEASE
        newcomer.owner.beat(newcomer.channel)
        assert not suspects()
        silent = 0
        while not suspects():
            newcomer.clock.seconds += LEASE_S / BEATS_A_LEASE
            newcomer.owner.beat(newcomer.channel)
            silent += 1
        assert 1 < silent < BEATS_A_LEASE / 2
    assert noticed == [True, True]
