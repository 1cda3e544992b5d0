"""The pool under users that are cancelled at any await: a real server counts the connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncworker.errors import PoolClosed, PoolError
from asyncworker.resources import Pool
from tests.unit.resources.test_pool import Server, until

SIZE = 10
USERS = 5_000
CANCELS = 10_000


class Echo:
    """A TCP server that answers each line, and counts connections."""

    def __init__(self) -> None:
        self.now = self.most = self.opened = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.opened += 1
        self.most = max(self.most, self.now)
        try:
            while line := await reader.readline():
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            self.now -= 1
            writer.close()


async def test_five_thousand_users_and_ten_thousand_cancels_leak_nothing() -> None:
    echo = Echo()
    listener = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]

    async def connect() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
                while await reader.read(4096):  # until the server has seen it, and counts one less
                    pass
            writer.close()

    randomly = random.Random(7)
    # Most are cancelled while they wait; a connection whose use is cut short is closed, and opened anew.
    pool = Pool(connect, size=SIZE, acquire_timeout_s=None)
    answered = 0

    async def user(number: int) -> None:
        nonlocal answered
        async with pool.connection() as (reader, writer):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
            answered += 1

    cancelled, number = 0, 0
    users: list[asyncio.Task[None]] = []
    while cancelled < CANCELS:
        users = [task for task in users if not task.done()]
        users += [asyncio.create_task(user(number + more)) for more in range(USERS - len(users))]
        number += USERS
        for _ in range(randomly.randrange(1, 4)):
            await asyncio.sleep(0)
        for task in randomly.sample(users, 1000):
            cancelled += task.cancel()
    await asyncio.wait(users)
    assert [task.exception() for task in users if not task.cancelled() and task.exception()] == []
    assert answered > 0
    assert echo.opened > SIZE  # some were cancelled in the middle of their use
    assert echo.most <= SIZE

    standing = pool.statistics()
    assert standing.lent == standing.waiting == 0
    async with contextlib.AsyncExitStack() as all_of_them:
        for _ in range(SIZE):
            await all_of_them.enter_async_context(pool.connection(timeout_s=30))
    await pool.close()
    await until(lambda: echo.now == 0)
    listener.close()
    await listener.wait_closed()


Step = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("finish"), st.integers(0, 20)),
    st.tuples(st.just("fail"), st.integers(0, 20)),
    st.tuples(st.just("pass"), st.integers(1, 5)),
    st.tuples(st.just("refuse"), st.booleans()),
    st.tuples(st.just("close"), st.booleans()),
)


@given(st.lists(Step, max_size=60), st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=60)
def test_whatever_happens_places_are_neither_lost_nor_doubled(
    steps: list[tuple[str, int]], size: int, min_idle: int
) -> None:
    asyncio.run(whatever_happens(steps, size, min_idle))


async def whatever_happens(steps: list[tuple[str, int]], size: int, min_idle: int) -> None:
    server = Server()
    in_use: set[int] = set()
    ends: dict[asyncio.Task[None], asyncio.Future[None]] = {}

    async def user(end: asyncio.Future[None]) -> None:
        with contextlib.suppress(PoolError):
            async with pool.connection(timeout_s=None) as connection:
                assert connection.number not in in_use
                in_use.add(connection.number)
                try:
                    await end
                finally:
                    in_use.discard(connection.number)

    async with Pool(server.connect, size=size, min_idle=min_idle) as pool:
        for what, how in steps:
            live = [task for task in ends if not task.done()]
            if what == "start":
                for _ in range(how):
                    end = asyncio.get_running_loop().create_future()
                    ends[asyncio.create_task(user(end))] = end
            elif what == "cancel" and live:
                live[how % len(live)].cancel()
            elif what in ("finish", "fail") and live:
                end = ends[live[how % len(live)]]
                if not end.done():
                    end.set_exception(ConnectionResetError()) if what == "fail" else end.set_result(None)
                    end.exception()  # nobody may ever look
            elif what == "pass":
                for _ in range(how):
                    await asyncio.sleep(0)
            elif what == "refuse":
                server.refuses = OSError("refused") if how else None
            elif what == "close":
                with contextlib.suppress(PoolClosed):
                    await pool.close(grace_s=0)
            assert len(server.open) <= size
            standing = pool.statistics()
            assert standing.lent + standing.idle <= size
        server.refuses = None
        for end in ends.values():
            if not end.done():
                end.set_result(None)
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        unexpected = [each for each in outcomes if isinstance(each, AssertionError)]
        assert unexpected == []
        # Every place can still be had.
        async with contextlib.AsyncExitStack() as all_of_them:
            for _ in range(size):
                await all_of_them.enter_async_context(pool.connection(timeout_s=30))
        assert pool.statistics().waiting == 0
    assert server.open == []
    assert server.most <= size


@pytest.mark.parametrize("passes", range(12))
async def test_a_cancel_in_any_pass_leaves_the_place_free(passes: int) -> None:
    server = Server()

    async def user() -> None:
        async with pool.connection(timeout_s=None):
            await asyncio.Event().wait()

    async with Pool(server.connect, size=1) as pool:
        impatient = asyncio.create_task(user())
        for _ in range(passes):
            await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        async with pool.connection(timeout_s=30):
            assert len(server.open) == 1
