"""The connection pool: what it promises, in order, and the four ways in which pools are known to break."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from asyncworker.errors import LoopError, PoolClosed, PoolConnectError, PoolTimeout, SettingsError
from asyncworker.resources import Pool
from tests.unit.iterate.clocks import ManualClock, passes


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True


class Server:
    """Counts what is open. Opening and closing take some passes of the loop, or until they are let."""

    def __init__(self) -> None:
        self.open: list[Connection] = []
        self.opened = 0
        self.most = 0
        self.refuses: Exception | None = None
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.checked: list[int] = []

    async def connect(self) -> AsyncIterator[Connection]:
        self.opened += 1
        made = Connection(self.opened)
        self.open.append(made)
        self.most = max(self.most, len(self.open))
        try:
            await asyncio.sleep(0)
            await self.may_open.wait()
            if self.refuses is not None:
                raise self.refuses
            yield made
        finally:
            try:
                await self.may_close.wait()
            finally:
                self.open.remove(made)

    async def check(self, connection: Connection) -> None:
        self.checked.append(connection.number)
        await asyncio.sleep(0)
        if not connection.alive:
            raise ConnectionResetError("gone")


@pytest.fixture
async def server() -> Server:
    return Server()


@contextlib.asynccontextmanager
async def pool_of(server: Server, **options: Any) -> AsyncIterator[Pool[Connection]]:
    async with Pool(server.connect, name="test", **options) as pool:
        yield pool
    assert server.open == []


async def until(condition: Callable[[], object]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to pass")


async def lent(pool: Pool[Connection], go: asyncio.Event, count: int = 1) -> list[asyncio.Task[None]]:
    """Users that keep a connection each until they are told."""
    users = [asyncio.create_task(keep(pool, go), name=f"user-{number}") for number in range(count)]
    await until(lambda: pool.statistics().lent == count)
    return users


async def keep(pool: Pool[Connection], go: asyncio.Event) -> None:
    async with pool.connection():
        await go.wait()


# -- the promises ------------------------------------------------------------------------------------------------------


async def test_no_more_than_its_size_and_all_are_served(server: Server) -> None:
    async with pool_of(server, size=3) as pool:
        served = []

        async def user(number: int) -> None:
            async with pool.connection() as connection:
                await asyncio.sleep(0)
                served.append((number, connection.number))

        await asyncio.gather(*[user(number) for number in range(100)])
        assert sorted(number for number, _ in served) == list(range(100))
        assert server.most == server.opened == 3
        assert pool.statistics().acquired == 100


async def test_the_one_used_last_is_lent_first(server: Server) -> None:
    async with pool_of(server) as pool:
        async with pool.connection() as first, pool.connection() as second:
            assert first is not second
        for _ in range(5):
            async with pool.connection() as again:
                assert again is first  # the outer block gave it back last


async def test_who_waits_first_is_served_first(server: Server) -> None:
    async with pool_of(server, size=1) as pool:
        order: list[int] = []

        async def user(number: int) -> None:
            async with pool.connection():
                order.append(number)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(user(number))
                await asyncio.sleep(0)
        assert order == list(range(20))


@pytest.mark.promise("pool-timeout-names-holders")
async def test_who_waits_in_vain_is_told_who_holds_what(server: Server) -> None:
    go = asyncio.Event()
    async with pool_of(server, size=2, acquire_timeout_s=0.5) as pool:
        users = await lent(pool, go, 2)
        with pytest.raises(PoolTimeout, match=r"none of its 2 connections came free within 0.5 s, 1 wait") as caught:
            async with pool.connection():
                raise AssertionError("unreachable")
        assert "user-0 for " in str(caught.value)
        assert "user-1 for " in str(caught.value)
        go.set()
        await asyncio.gather(*users)
        assert pool.statistics().timeouts == 1


async def test_an_idle_connection_is_checked_before_it_is_lent(server: Server) -> None:
    clock = ManualClock()
    async with pool_of(server, check=server.check, check_after_s=10, clock=clock) as pool:
        async with pool.connection() as first:
            pass
        async with pool.connection():
            pass
        assert server.checked == []
        await clock.advance(11)
        async with pool.connection() as same:
            assert same is first
        assert server.checked == [1]
        first.alive = False
        await clock.advance(11)
        async with pool.connection() as other:
            assert other is not first
        assert first not in server.open
        assert pool.statistics().dropped == 1


async def test_limits_of_idleness_and_age(server: Server) -> None:
    clock = ManualClock()
    go = asyncio.Event()
    async with pool_of(server, size=4, min_idle=1, idle_s=60, max_age_s=600, clock=clock) as pool:
        users = await lent(pool, go, 4)
        go.set()
        await asyncio.gather(*users)
        await clock.advance(61)
        pool.tend()
        await until(lambda: len(server.open) == 1)
        await clock.advance(600)
        pool.tend()  # too old, and one is to be ready
        await until(lambda: server.opened == 5 and pool.statistics().idle == 1)
        assert len(server.open) == 1


async def test_an_old_connection_is_not_lent_again(server: Server) -> None:
    clock = ManualClock()
    async with pool_of(server, max_age_s=600, clock=clock) as pool:
        async with pool.connection() as first:
            await clock.advance(601)
        async with pool.connection() as second:
            assert second is not first


async def test_a_connection_that_ends_by_itself_is_replaced(server: Server) -> None:
    lost = asyncio.Event()

    async def reader() -> None:
        await lost.wait()
        raise ConnectionResetError("by peer")

    async def connect() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(reader())
            server.opened += 1
            yield server.opened
            task.cancel()

    async with Pool(connect) as pool:
        async with pool.connection() as number:
            assert number == 1
        lost.set()
        await until(lambda: pool.statistics().dropped)
        lost.clear()
        async with pool.connection() as number:
            assert number == 2


async def test_one_that_cannot_be_opened_leaves_it_to_those_that_live(server: Server) -> None:
    go = asyncio.Event()
    async with pool_of(server, size=2) as pool:
        users = await lent(pool, go)
        server.refuses = ConnectionRefusedError("too many")
        waiting = asyncio.create_task(keep(pool, go))
        await until(lambda: pool.statistics().failed)
        await passes()
        assert not waiting.done()
        assert server.opened == 2  # it is not tried again and again
        go.set()
        await asyncio.gather(*users, waiting)


async def test_where_none_can_be_opened_all_who_wait_are_told(server: Server) -> None:
    server.refuses = ConnectionRefusedError("no such server")

    async def user() -> None:
        async with pool.connection():
            raise AssertionError("unreachable")

    async with pool_of(server, size=2) as pool:
        outcomes = await asyncio.gather(*[user() for _ in range(10)], return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PoolConnectError}
        assert "pool test: no connection could be opened: ConnectionRefusedError: no such server" in str(outcomes[0])
        assert server.opened == 2
        server.refuses = None
        async with pool.connection():
            pass


async def test_opening_that_takes_too_long_is_given_up(server: Server) -> None:
    server.may_open.clear()
    async with pool_of(server, connect_timeout_s=0.01) as pool:
        with pytest.raises(PoolConnectError, match="TimeoutError"):
            async with pool.connection():
                raise AssertionError("unreachable")
        assert server.open == []


async def test_closing_that_takes_too_long_is_cancelled(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with pool_of(server, close_timeout_s=0.01) as pool:
        async with pool.connection():
            pass
        server.may_close.clear()
        with caplog.at_level(logging.WARNING):
            await pool.close()
        assert server.open == []
    assert "did not close within 0.01 s" in caplog.text


async def test_min_idle_is_kept_ready(server: Server) -> None:
    async with pool_of(server, size=5, min_idle=3) as pool:
        async with pool.connection():
            await until(lambda: pool.statistics().idle == 3)
        assert server.opened == 4


@pytest.mark.parametrize("options", [{"size": 0}, {"siz": 3}, {"idle_s": -1}, {"size": None}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="pool wrong: its options are"):
        Pool(Server.connect, name="wrong", **options)  # type: ignore[arg-type]


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_closing_refuses_who_waits_and_the_pool_is_as_new(server: Server) -> None:
    go = asyncio.Event()
    async with pool_of(server, size=1) as pool:
        users = await lent(pool, go)
        waiting = asyncio.create_task(keep(pool, go))
        await until(lambda: pool.statistics().waiting)
        await pool.close()
        assert server.open == []
        with pytest.raises(PoolClosed, match="pool test was closed"):
            await waiting

        # What was lent and was closed under its user comes back, and is not taken for one of the new ones.
        async with pool.connection() as fresh:
            assert fresh.number == 2
            go.set()
            await asyncio.gather(*users)
            assert pool.statistics().lent == 1
        assert len(server.open) == pool.statistics().idle == 1


async def test_closing_waits_for_users_as_long_as_it_is_told(server: Server) -> None:
    go = asyncio.Event()
    async with pool_of(server) as pool:
        users = await lent(pool, go, 3)
        closing = asyncio.create_task(pool.close(grace_s=60))
        await passes()
        assert len(server.open) == 3
        with pytest.raises(PoolClosed, match="is being closed"):
            async with pool.connection():
                raise AssertionError("unreachable")
        go.set()
        await closing
        await asyncio.gather(*users)
        assert server.open == []


async def test_a_close_that_is_cancelled_closes_all_the_same(server: Server) -> None:
    async with pool_of(server) as pool:
        async with pool.connection():
            pass
        server.may_close.clear()
        impatient = asyncio.create_task(pool.close())
        await passes()
        impatient.cancel()
        await asyncio.wait([impatient])
        server.may_close.set()
        await pool.close()
        assert server.open == []


# -- the four defects --------------------------------------------------------------------------------------------------


async def test_a_cancelled_connect_loses_no_permit(server: Server) -> None:
    """Seen elsewhere: who is cancelled while the pool connects takes a place with him."""
    server.may_open.clear()
    async with pool_of(server, size=1) as pool:
        for _ in range(10):
            impatient = asyncio.create_task(keep(pool, asyncio.Event()))
            await until(lambda: pool.statistics().waiting)
            impatient.cancel()
            await asyncio.wait([impatient])
        server.may_open.set()
        async with pool.connection(timeout_s=30):
            assert len(server.open) == 1


async def test_closing_in_use_does_not_deadlock(server: Server) -> None:
    """Seen elsewhere: close() waits for a connection that its own caller holds, or its return for close()."""
    async with pool_of(server, size=1) as pool:
        async with pool.connection():
            await asyncio.wait_for(pool.close(), 30)
            assert server.open == []
        async with pool.connection():
            pass
        async with pool.connection():
            await asyncio.wait_for(pool.close(grace_s=0.01), 30)


async def test_a_failed_channel_leaks_no_transport() -> None:
    """Seen elsewhere: the transport is up, the channel is refused, and the transport stays open for ever."""
    transports: list[str] = []

    @contextlib.asynccontextmanager
    async def transport() -> AsyncIterator[str]:
        transports.append("open")
        try:
            await asyncio.sleep(0)
            yield "transport"
        finally:
            transports.remove("open")

    async def refuse() -> None:
        raise ConnectionError("administratively prohibited")

    async def hang() -> None:
        await asyncio.Event().wait()

    def connect_with(behaviour: Callable[[], Awaitable[None]]) -> Callable[[], AsyncIterator[str]]:
        async def connect() -> AsyncIterator[str]:
            async with transport() as opened:
                await behaviour()
                yield f"channel over {opened}"

        return connect

    for behaviour in (refuse, hang):
        async with Pool(connect_with(behaviour), connect_timeout_s=0.05) as pool:
            with pytest.raises(PoolConnectError):
                async with pool.connection():
                    raise AssertionError("unreachable")
            assert transports == []


async def test_an_application_error_keeps_the_connection_and_a_fault_drops_it(server: Server) -> None:
    """Seen elsewhere: a missing file costs a good connection, or a broken one is lent again."""
    async with pool_of(server) as pool:
        with pytest.raises(LookupError):
            async with pool.connection() as first:
                raise LookupError("no such file")
        with pytest.raises(ConnectionResetError):
            async with pool.connection() as same:
                assert same is first
                raise ConnectionResetError("by peer")
        async with pool.connection() as other:
            assert other is not first
        user = (await lent(pool, asyncio.Event()))[0]
        user.cancel()  # in the middle of its use: an answer may be on its way
        await asyncio.wait([user])
        assert pool.statistics().dropped == 2


async def test_the_client_judges_its_own_errors(server: Server) -> None:
    class Refused(OSError):
        pass

    def is_fault(exc: BaseException) -> bool:
        return not isinstance(exc, Refused)

    async with pool_of(server, is_fault=is_fault) as pool:
        with pytest.raises(Refused):
            async with pool.connection() as first:
                raise Refused("permission denied")
        with pytest.raises(ValueError, match="garbage"):
            async with pool.connection() as same:
                assert same is first
                raise ValueError("garbage on the wire")
        async with pool.connection() as other:
            assert other is not first


async def test_a_connection_that_is_checked_before_every_use_is_checked_once_a_use() -> None:
    server = Server()
    pool = Pool(server.connect, name="db", check=server.check, check_after_s=0, size=1)
    for _ in range(5):
        async with asyncio.timeout(120), pool.connection():
            await asyncio.sleep(0)
    assert server.opened == 1
    assert len(server.checked) == 4
    server.open[0].alive = False
    async with asyncio.timeout(120), pool.connection() as connection:
        assert connection.number == 2
    await pool.close()


async def test_a_connection_that_is_too_old_at_once_serves_once() -> None:
    server = Server()
    async with Pool(server.connect, name="db", max_age_s=0, size=1) as pool:
        for number in (1, 2, 3):
            async with asyncio.timeout(120), pool.connection() as connection:
                assert connection.number == number


def test_a_pool_begins_anew_on_another_loop_once_the_first_is_closed() -> None:
    server = Server()
    pool = Pool(server.connect, name="db", size=1)
    lent = []

    async def use_it() -> None:
        async with asyncio.timeout(120), pool.connection() as connection:
            lent.append(connection.number)

    asyncio.run(use_it())
    asyncio.run(use_it())
    asyncio.run(pool.close())
    assert lent == [1, 2]
    assert pool.statistics().idle == 0


async def test_a_pool_is_refused_to_a_second_loop_while_the_first_is_open() -> None:
    pool = Pool(Server().connect, name="db", size=1)
    async with pool.connection():
        pass

    async def use_it() -> None:
        async with pool.connection():
            raise AssertionError("unreachable")

    with pytest.raises(LoopError, match="pool db belongs to another event loop"):
        await asyncio.to_thread(asyncio.run, use_it())
    with pytest.raises(LoopError):
        await asyncio.to_thread(asyncio.run, pool.close())
    async with pool.connection():
        pass
    await pool.close()
