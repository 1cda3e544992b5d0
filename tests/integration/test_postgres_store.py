"""The store on PostgreSQL: the same laws as on SQLite, and fan-outs whose checkpoint is there."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import CheckpointCorrupt, StoreError
from asyncworker.store import ItemFailure, Store, open_store
from tests.integration import tasks
from tests.servers.postgres import Postgres
from tests.servers.worker import Worker
from tests.unit.store import test_leases as leases_on_sqlite
from tests.unit.store import test_state as state_on_sqlite
from tests.unit.store import test_storable as texts_on_sqlite
from tests.unit.store import test_store as on_sqlite

GET_S = 120.0
MODULE = tasks.__name__

store = on_sqlite.store
make = state_on_sqlite.make


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.add_database()


@pytest.fixture
def url(postgres: Postgres, database: str) -> str:
    return postgres.url(database)


def _holds_for_any_database(test: object) -> bool:
    wanted = inspect.signature(test).parameters.keys()  # type: ignore[arg-type]
    # Those with a tmp_path look into SQLite's file.
    return bool(wanted & {"store", "url"}) and not wanted & {"tmp_path", "reason"}


#: Every test of the store that is not about a file is run again, with the ``url`` of this module.
_modules = (on_sqlite, leases_on_sqlite, state_on_sqlite, texts_on_sqlite)
_tests = {
    name: test
    for module in _modules
    for name, test in vars(module).items()
    if name.startswith("test_") and inspect.isfunction(test) and _holds_for_any_database(test)
}
globals().update(_tests)


async def test_a_checkpoint_that_cannot_be_is_reported(store: Store, postgres: Postgres, database: str) -> None:
    hold = await store.begin_run(on_sqlite.request())
    await store.write(hold, on_sqlite.batch([1, 2]), 0)
    await postgres.execute_async("UPDATE asyncworker_run SET done = 7", database)
    with pytest.raises(CheckpointCorrupt, match="run run"):
        await store.begin_run(on_sqlite.request())


async def test_connections_that_were_cut_are_made_again(store: Store, postgres: Postgres) -> None:
    hold = await store.begin_run(on_sqlite.request())
    await postgres.drop_connections_async()
    await store.write(hold, on_sqlite.batch([1, 2]), 0)
    assert (await store.progress("run")).done == 2


async def test_a_server_that_is_not_there_says_so_without_its_password(postgres: Postgres) -> None:
    with pytest.raises(StoreError, match="nobody") as caught:
        await open_store(f"postgresql+asyncpg://nobody:secret@127.0.0.1:{postgres.port}/no_such_database")
    assert "secret" not in str(caught.value)


SECRET = "s3cr3t of a client"


@pytest.mark.parametrize(
    "trouble",
    [
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not into asyncworker_failure' USING DETAIL = NEW.message, HINT = 'none'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON asyncworker_failure FOR EACH ROW EXECUTE FUNCTION refuse()
        """,
        "ALTER TABLE asyncworker_failure ALTER message TYPE varchar(3)",
        "ALTER TABLE asyncworker_failure ALTER message TYPE integer USING 1",  # asyncpg: invalid input for argument
        "DROP TABLE asyncworker_failure",
    ],
)
async def test_an_error_of_the_database_does_not_quote_what_was_to_be_stored(
    store: Store, postgres: Postgres, database: str, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    hold = await store.begin_run(on_sqlite.request())
    await postgres.execute_async(trouble, database)
    failures = [
        ItemFailure(
            index=index, key=SECRET, type="E", message=f"{SECRET} (x)", attempt=1, traceback=SECRET, at=on_sqlite.NOW
        )
        for index in (3, 4)
    ]
    with pytest.raises(StoreError) as caught:
        await store.write(hold, on_sqlite.batch([1], [SECRET.encode()], failures=failures), 0)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "asyncworker_failure" in told
    assert SECRET not in told
    assert SECRET.encode().hex() not in told


@pytest.fixture
def worker_env(valkey: EmbeddedServer, state_dir: Path, url: str) -> dict[str, str]:
    return {
        "ASYNCWORKER_BROKER_URL": valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(state_dir),
        "ASYNCWORKER_STORE_URL": url,
    }


@pytest.fixture
def client(client: Celery[AsyncTask], url: str) -> Celery[AsyncTask]:
    client.conf.asyncworker_store_url = url
    return client


def test_a_fan_out_through_the_worker(
    worker: Callable[..., Worker], client: Celery[AsyncTask], state_dir: Path
) -> None:
    worker(MODULE, "--without-mingle")
    result = client.tasks["t.picky"].iterate(number=range(1000)).delay()
    with pytest.raises(Exception, match="100"):
        result.get(timeout=GET_S)
    assert (result.progress().done, result.progress().failed) == (900, 100)
    assert [failure.index for failure in result.errors(limit=3)] == [7, 17, 27]
    assert result.results() == [n for n in range(1000) if n % 10 != 7]
    assert not list(state_dir.glob("*.sqlite"))


def test_resume_after_kill(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    count, concurrency = 2000, 20
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_LEASE_S": "3"})
    fan_out = client.tasks["t.item"].partial(pause_s=0.05, log=str(log)).options(concurrency=concurrency)
    result = fan_out.iterate(number=range(count)).delay()
    while result.progress().done < count / 3:
        pass
    first.kill()
    first.wait()
    held = result.progress().done
    with redis.Redis.from_url(valkey.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    worker(MODULE, "--without-mingle", name="second@test", env={"ASYNCWORKER_LEASE_S": "3"})
    assert result.get(timeout=GET_S)["resumed"] == held
    assert result.results() == [2 * n for n in range(count)]
    runs = Counter(log.read_text().split())
    assert len(runs) == count
    assert 0 < held < count


def test_a_run_goes_on_where_its_connections_are_cut(
    worker: Callable[..., Worker], client: Celery[AsyncTask], postgres: Postgres, tmp_path: Path
) -> None:
    count = 1000
    log = tmp_path / "log"
    worker(MODULE, "--without-mingle")
    result = client.tasks["t.item"].partial(pause_s=0.02, log=str(log)).options(concurrency=20)
    running = result.iterate(number=range(count)).delay()
    for share in (0.2, 0.5):
        while running.progress().done < count * share:
            pass
        postgres.drop_connections()
    assert running.get(timeout=GET_S)["done"] == count
    assert running.results() == [2 * n for n in range(count)]
    assert Counter(log.read_text().split()).total() == count
