"""Limits of the cluster on a real Valkey: several processes' worth of clients, leases, changes, outages."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import LimitError, LimitLost, LimitTimeout, SettingsError
from asyncworker.limits import Permit, RateLimit, Semaphore, limit, limits
from asyncworker.limits import cluster as cluster_module
from asyncworker.limits.cluster import Cluster, limits_url, use_limits_url
from asyncworker.limits.control import change_cluster_limit, cluster_limits
from asyncworker.limits.keeper import USED_PART
from asyncworker.limits.scripts import AMOUNTS, CHANGED, key_of
from asyncworker.resources import lifetimes
from tests.servers.valkey import RestartableValkey, running_valkey

WAIT_S = 120.0


@pytest.fixture(autouse=True)
def redis_of_limits(valkey: EmbeddedServer) -> Iterator[None]:
    limits.clear()
    use_limits_url(valkey.redis_url)
    yield
    use_limits_url("")
    limits.clear()


@pytest.fixture
async def open_cluster(valkey: EmbeddedServer) -> AsyncIterator[Callable[[], object]]:
    """More clients, each as another process would be one."""
    opened: list[Cluster] = []

    async def another() -> Cluster:
        cluster = await asyncio.to_thread(Cluster, valkey.redis_url)
        await cluster.start()
        opened.append(cluster)
        return cluster

    yield another
    for cluster in opened:
        await cluster.close()
    await lifetimes().close()


def counted(valkey: EmbeddedServer, part: str = "held") -> int:
    with redis.Redis.from_url(valkey.redis_url) as client:
        return int(client.zcard(key_of(part, "s", "")))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def acquired(cluster: Cluster, holder: str = "-", permits: int = 2, lease_s: float = 30) -> Permit:
    place = cluster.semaphore("s", "", permits, lease_s)
    permit = Permit(place, "s", "", holder)
    await place.acquire(permit)
    return permit


@pytest.mark.promise("limit-is-never-exceeded")
async def test_never_more_than_so_many_over_several_processes(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    clusters = [await open_cluster() for _ in range(4)]
    now = most = 0

    async def user(cluster: Cluster) -> None:
        nonlocal now, most
        permit = await acquired(cluster, permits=5)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        permit.release()

    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*[user(clusters[number % 4]) for number in range(200)])
    assert most == 5
    await until(lambda: counted(valkey) == 0)


@pytest.mark.promise("limit-first-come-first-served")
async def test_who_came_first_is_first_whatever_his_process(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    clusters = [await open_cluster() for _ in range(3)]
    first = await acquired(clusters[0], permits=1)
    order: list[int] = []

    async def user(number: int) -> None:
        permit = await acquired(clusters[number % 3], permits=1)
        order.append(number)
        permit.release()

    users = []
    for number in range(12):
        users.append(asyncio.create_task(user(number)))
        await until(lambda: counted(valkey, "queue") == len(users))
    first.release()
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*users)
    assert order == list(range(12))


async def test_a_process_that_dies_is_followed_within_the_lease(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    dying, living = await open_cluster(), await open_cluster()
    await acquired(dying, permits=1, lease_s=2)
    # As kill -9 would: it renews nothing, and gives nothing back.
    dying.keeper.close()
    for semaphore in dying.active.values():
        semaphore._held.clear()
    permit = await asyncio.wait_for(acquired(living, permits=1, lease_s=2), WAIT_S)
    assert permit.held
    assert counted(valkey) == 1


async def test_one_who_waits_in_a_dead_process_is_passed_over(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    first, dead, last = [await open_cluster() for _ in range(3)]
    permit = await acquired(first, permits=1)
    in_vain = asyncio.create_task(acquired(dead, permits=1))
    await until(lambda: counted(valkey, "queue") == 1)
    dead._listener.cancel()
    await asyncio.wait([dead._listener])
    patient = asyncio.create_task(acquired(last, permits=1))
    await until(lambda: counted(valkey, "queue") == 2)
    permit.release()
    assert (await asyncio.wait_for(patient, WAIT_S)).held
    in_vain.cancel()
    await asyncio.wait([in_vain])


async def test_a_permit_is_renewed_for_as_long_as_it_is_held(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    Semaphore("s", 1, cluster=True, lease_s=3)
    async with limit("s") as permit:
        first_until_s = permit.valid_until_s
        await until(lambda: permit.valid_until_s > first_until_s + 3)  # past where it would have ended
        assert permit.held
        with pytest.raises(LimitTimeout, match=r"limit s: no permit within 0\.05 s; "):
            async with limit("s", timeout_s=0.05):
                raise AssertionError("unreachable")
    await until(lambda: counted(valkey) == 0)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RestartableValkey]:
    """A server that may be frozen and cut."""
    with running_valkey(tmp_path / "own") as server:
        use_limits_url(server.url())
        yield server


@pytest.mark.promise("limit-loss-is-said")
async def test_a_permit_that_cannot_be_renewed_cancels_its_block(own_server: RestartableValkey) -> None:
    Semaphore("s", 1, cluster=True, lease_s=1)
    with pytest.raises(LimitLost, match="limit s: the permit of me could not be renewed"):
        async with limit("s") as permit:
            permit.holder = "me"
            own_server.freeze()
            await asyncio.sleep(WAIT_S)
    assert not permit.held
    own_server.thaw()
    async with asyncio.timeout(WAIT_S), limit("s"):
        pass
    await lifetimes().close()


async def test_an_outage_is_waited_for_and_lost_data_is_made_good(own_server: RestartableValkey) -> None:
    semaphore = Semaphore("s", 1, cluster=True, lease_s=3)
    async with limit("s") as permit:
        with own_server.connect() as client:
            client.flushall()
            # At its next renewal.
            await until(lambda: client.zcard(key_of("held", "s", "")) == 1)
            own_server.kill_connections()
        waiting = asyncio.create_task(semaphore.acquire())
        renewed_until_s = permit.valid_until_s
        await until(lambda: permit.valid_until_s > renewed_until_s)
        assert not waiting.done()
    (await asyncio.wait_for(waiting, WAIT_S)).release()
    await lifetimes().close()


@pytest.mark.promise("limit-changes-in-use")
async def test_the_number_changes_for_all_while_they_wait(valkey: EmbeddedServer) -> None:
    Semaphore("s", 1, cluster=True)
    async with limit("s"):
        waiting = asyncio.create_task(limits["s"].acquire())
        await until(lambda: limits["s"].standing()[""].waiting)
        with redis.Redis.from_url(valkey.redis_url) as client:
            client.hset(AMOUNTS, "s", 2)
            client.publish(CHANGED, "s")
        (await asyncio.wait_for(waiting, WAIT_S)).release()
    await lifetimes().close()


async def test_cancelled_waiters_leave_nothing_behind(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    cluster = await open_cluster()
    permit = await acquired(cluster, permits=1)
    for pause_s in (0, 0, 0.001, 0.002, 0.005):
        waiting = [asyncio.create_task(acquired(cluster, permits=1)) for _ in range(50)]
        await asyncio.sleep(pause_s)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    permit.release()
    await until(lambda: not cluster.active)
    with redis.Redis.from_url(valkey.redis_url) as client:
        assert [client.zcard(key_of(part, "s", "")) for part in ("held", "queue", "alive")] == [0, 0, 0]
        assert client.hlen(key_of("holders", "s", "")) == 0


async def test_every_key_that_is_left_ends_by_itself(valkey: EmbeddedServer) -> None:
    Semaphore("s", 1, cluster=True)
    RateLimit("r", 100, cluster=True)
    async with limit("s", key="k"), limit("r"):
        with redis.Redis.from_url(valkey.redis_url) as client:
            kept = {key for key in client.keys("*") if client.ttl(key) == -1}
            assert kept == {b"asyncworker:limits"}
    await lifetimes().close()


async def test_a_rate_holds_over_several_processes(open_cluster) -> None:  # type: ignore[no-untyped-def]
    clusters = [await open_cluster() for _ in range(3)]
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def user(cluster: Cluster) -> None:
        place = cluster.rate("r", "", 200, 1.0, 1)
        for _ in range(20):
            await place.acquire(Permit(place, "r", "", "-"))
            times.append(loop.time())

    began = loop.time()
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*[user(cluster) for cluster in clusters for _ in range(2)])
    # No token is early; late ones may come together.
    for number, at in enumerate(sorted(times)):
        assert number <= 200 * (at - began) + 1
    assert len(times) == 120


async def test_without_a_redis_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_limits_url("amqp://localhost")
    Semaphore("s", 1, cluster=True)
    with pytest.raises(LimitError, match="kept on Redis, and the broker is amqp: set ASYNCWORKER_LIMITS_URL"):
        async with limit("s"):
            raise AssertionError("unreachable")
    use_limits_url("redis+socket:///run/valkey.sock?virtual_host=3")
    assert limits_url() == "unix:///run/valkey.sock?db=3"


async def test_thousands_of_keys_share_one_connection_and_are_renewed_together(
    open_cluster, valkey: EmbeddedServer
) -> None:  # type: ignore[no-untyped-def]
    keys, lease_s = 2000, 20.0
    with redis.Redis.from_url(valkey.redis_url) as client:
        others = {each["id"] for each in client.client_list()}
    cluster = await open_cluster()
    lost = []

    async def hold(number: int) -> Permit:
        place = cluster.semaphore("s", f"key-{number}", 1, lease_s)
        permit = Permit(place, "s", f"key-{number}", "-")
        permit.on_lost = lambda: lost.append(number)
        await place.acquire(permit)
        return permit

    async with asyncio.timeout(WAIT_S):
        held = await asyncio.gather(*(hold(number) for number in range(keys)))
    with redis.Redis.from_url(valkey.redis_url) as client:
        mine = [each for each in client.client_list() if each["id"] not in others]
        before = int(client.info("commandstats")["cmdstat_evalsha"]["calls"])
        first_until_s = min(permit.valid_until_s for permit in held)
        await until(lambda: min(permit.valid_until_s for permit in held) > first_until_s + 0.5 * lease_s)
        renewals = int(client.info("commandstats")["cmdstat_evalsha"]["calls"]) - before
    assert len(mine) <= 4  # this one, the steps', the listener's, and one of the fixture
    assert renewals < keys / 10
    assert not lost
    for permit in held:
        permit.release()
    await until(lambda: not cluster.active)


async def test_a_short_lease_is_renewed_among_thousands_of_long_ones(open_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster = await open_cluster()

    async def hold(key: str, lease_s: float) -> Permit:
        place = cluster.semaphore("s", key, 1, lease_s)
        permit = Permit(place, "s", key, "-")
        await place.acquire(permit)
        return permit

    async with asyncio.timeout(WAIT_S):
        long = await asyncio.gather(*(hold(f"key-{number}", 64.0) for number in range(6000)))
        short = await hold("short", 50.0)
    before_s = {permit: permit.valid_until_s for permit in [*long, short]}
    cluster.keeper.renew_all()
    await until(lambda: all(permit.valid_until_s > before_s[permit] for permit in [*long, short]))
    # A permit counts from when its renewal was sent.
    assert short.valid_until_s - USED_PART * 50.0 < max(permit.valid_until_s for permit in long) - USED_PART * 64.0
    for permit in [*long, short]:
        permit.release()
    await until(lambda: not cluster.active)


async def test_a_rate_that_is_raised_reaches_those_who_wait_in_every_process(
    open_cluster, valkey: EmbeddedServer
) -> None:  # type: ignore[no-untyped-def]
    places = [(await open_cluster()).rate("r", "", 1, 3600.0, 1) for _ in range(2)]
    await places[0].acquire(Permit(places[0], "r", "", "-"))
    waiting = [asyncio.create_task(place.acquire(Permit(place, "r", "", "-"))) for place in places * 3]
    await until(lambda: all(place.waiting == 3 for place in places))
    assert await asyncio.to_thread(change_cluster_limit, "r", 1_234_567)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*waiting)
    known = await asyncio.to_thread(cluster_limits)
    assert [each.amount for each in known if each.name == "r"] == [1_234_567]


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), 0, -1.0])
async def test_a_number_that_no_limit_can_have_is_refused(open_cluster, amount: float) -> None:  # type: ignore[no-untyped-def]
    place = (await open_cluster()).rate("r", "", 1, 3600.0, 1)
    await place.acquire(Permit(place, "r", "", "-"))
    with pytest.raises(SettingsError, match=r"limit 'r': .* is not allowed"):
        await asyncio.to_thread(change_cluster_limit, "r", amount)


async def test_a_key_that_cannot_be_sent_is_refused_by_name(open_cluster) -> None:  # type: ignore[no-untyped-def]
    for kind in (Semaphore("s", 1, cluster=True), RateLimit("r", 1, cluster=True)):
        with pytest.raises(LimitError, match=r"limit .: the key '\\udc80' is not text"):
            await kind.acquire("\udc80")


@pytest.mark.parametrize("kind", ["semaphore", "rate"])
async def test_what_is_free_is_given_out_however_short_the_time_is(open_cluster, kind: str) -> None:  # type: ignore[no-untyped-def]
    semaphore = Semaphore("s", 1, cluster=True) if kind == "semaphore" else RateLimit("s", 1, per_s=3600, cluster=True)
    permit = await semaphore.acquire(timeout_s=0)
    with pytest.raises(LimitTimeout, match="limit s: no permit within 0 s"):
        await semaphore.acquire(timeout_s=0)
    permit.release()


async def test_a_short_wait_is_short_where_redis_is_away(open_cluster) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_limits_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(LimitTimeout):
            await Semaphore("s", 1, cluster=True).acquire(timeout_s=0.1)
        short_s = asyncio.get_running_loop().time() - began_s
    assert short_s < cluster_module.ANSWER_S


@pytest.mark.parametrize("kind", ["semaphore", "rate"])
async def test_what_redis_refuses_for_good_is_an_error_for_all_who_wait(  # type: ignore[no-untyped-def]
    open_cluster, valkey: EmbeddedServer, kind: str
) -> None:
    with redis.Redis.from_url(valkey.redis_url) as client:
        for part in ("held", "last"):
            client.rpush(key_of(part, "s", ""), "not what it should be")
    used = Semaphore("s", 1, cluster=True) if kind == "semaphore" else RateLimit("s", 1, cluster=True)
    async with asyncio.timeout(WAIT_S):
        refused = await asyncio.gather(*(used.acquire() for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in refused] == [LimitError] * 3
    assert "WRONGTYPE" in str(refused[0])
    with redis.Redis.from_url(valkey.redis_url) as client:
        client.flushdb()
    assert (await used.acquire()).held


async def test_a_refused_step_fails_nobody_whom_a_later_one_asks_for(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    held = await acquired(await open_cluster(), permits=1)
    place = (await open_cluster()).semaphore("s", "", 1, 30)
    first, second = (asyncio.create_task(place.acquire(Permit(place, "s", "", "-"))) for _ in range(2))
    await until(lambda: place.waiting == 2 and not place._to_wait)  # both have been asked for
    late = asyncio.create_task(place.acquire(Permit(place, "s", "", "-")))
    await asyncio.sleep(0)
    place.refused(LimitError("no"))
    async with asyncio.timeout(WAIT_S):
        assert [type(each) for each in await asyncio.gather(first, second, return_exceptions=True)] == [LimitError] * 2
        held.release()
        await late


async def test_a_swallowed_cancellation_does_not_hide_a_loss(open_cluster, valkey: EmbeddedServer) -> None:  # type: ignore[no-untyped-def]
    Semaphore("s", 1, cluster=True, lease_s=2)
    with pytest.raises(LimitLost, match="limit s"):
        async with limit("s") as permit:
            with contextlib.suppress(asyncio.CancelledError):
                permit.lose()
                await asyncio.sleep(WAIT_S)
