"""Never more than N, whatever dies: processes that hold permits are killed and stopped, an observer counts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.processes import Child
from asyncworker.limits.scripts import key_of
from tests.chaos import limit_holders
from tests.chaos.limit_holders import BEATS, DONE, LEASE_S, LIVE_MS, PERMITS

ROOT = Path(__file__).parents[2]

PROCESSES = 4
#: How long the short form goes on; ``AW_CHAOS_S`` makes it longer.
CHAOS_S = float(os.environ.get("AW_CHAOS_S", "12"))
WAIT_S = 120.0

LIVE = (
    "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000); "
    f"return redis.call('ZCOUNT', KEYS[1], now - {LIVE_MS}, '+inf')"
)
LEASED = (
    "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000); "
    "return redis.call('ZCOUNT', KEYS[1], now, '+inf')"
)


class Herd:
    """The processes; one that is killed is replaced."""

    def __init__(self, server: EmbeddedServer, folder: Path, stack: contextlib.ExitStack) -> None:
        self._server = server
        self._folder = folder
        self._stack = stack
        self._started = 0
        self.members = [self._new() for _ in range(PROCESSES)]
        self.stopped: dict[Child, float] = {}

    def _new(self) -> Child:
        self._started += 1
        observed_url = self._server.redis_url.replace("db=0", "db=5")
        command = [sys.executable, "-m", limit_holders.__name__, self._server.redis_url, observed_url]
        child = Child(
            command,
            log=self._folder / f"holder-{self._started}.log",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        return self._stack.enter_context(child)

    def kill_one(self) -> None:
        place = random.randrange(PROCESSES)
        self.stopped.pop(self.members[place], None)
        self.members[place].kill()
        self.members[place] = self._new()

    def stop_one(self, for_s: float) -> None:
        child = random.choice(self.members)
        if child not in self.stopped:
            child.signal(signal.SIGSTOP)
            self.stopped[child] = time.monotonic() + for_s

    def wake(self, *, all_of_them: bool = False) -> None:
        for child, until_s in list(self.stopped.items()):
            if all_of_them or time.monotonic() >= until_s:
                del self.stopped[child]
                child.signal(signal.SIGCONT)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("holder-*.log")))


@pytest.fixture
def observed(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.redis_url.replace("db=0", "db=5")) as client:
        yield client


@pytest.mark.timeout(600 + 2 * CHAOS_S)
@pytest.mark.promise("limit-is-never-exceeded")
def test_never_more_than_n_hold_it_whatever_dies(valkey: EmbeddedServer, observed: redis.Redis, tmp_path: Path) -> None:
    live = observed.register_script(LIVE)
    seen: list[int] = []

    def watch(until_s: float) -> None:
        while time.monotonic() < until_s:
            seen.append(int(live([BEATS])))
            assert seen[-1] <= PERMITS, f"{seen[-1]} hold at once; {herd.logs()}"
            time.sleep(0.002)

    with contextlib.ExitStack() as stack:
        herd = Herd(valkey, tmp_path, stack)
        stack.callback(lambda: herd.wake(all_of_them=True))
        begun_s = time.monotonic()
        while int(observed.get(DONE) or 0) < 100:
            watch(time.monotonic() + 0.1)
            assert time.monotonic() < begun_s + WAIT_S, herd.logs()
        end_s = time.monotonic() + CHAOS_S
        while time.monotonic() < end_s:
            watch(time.monotonic() + random.uniform(0.2, 0.8))
            # Some are stopped for longer than a lease: their places are given away, and they wake up without them.
            random.choice([herd.kill_one, lambda: herd.stop_one(random.uniform(0.1, 2 * LEASE_S))])()
            herd.wake()
        herd.wake(all_of_them=True)

        # What the dead held can be had again, all of it.
        done_before = int(observed.get(DONE) or 0)
        give_up_at_s = time.monotonic() + WAIT_S
        seen.clear()
        while not seen or max(seen) < PERMITS - 2 or int(observed.get(DONE) or 0) < done_before + 100:
            watch(time.monotonic() + 0.2)
            assert time.monotonic() < give_up_at_s, f"{max(seen)} hold at most; {herd.logs()}"

    with redis.Redis.from_url(valkey.redis_url) as limits:
        give_up_at_s = time.monotonic() + WAIT_S
        # Nobody renews them: the leases end.
        while int(limits.register_script(LEASED)([key_of("held", "work", "")])):
            assert time.monotonic() < give_up_at_s
            time.sleep(0.1)
