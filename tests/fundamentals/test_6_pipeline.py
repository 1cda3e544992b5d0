"""SFTP to PostgreSQL: list, fetch, parse, store. A file is an item; the checkpoint knows which are done.

The tasks are in pipeline.py. An item may run twice, so it stores by key: twice has the effect of once.
"""

import pytest

from tests.fundamentals import pipeline
from tests.servers.client import client_app
from tests.servers.pipeline import Orders
from tests.servers.sftp import running_sftp_server
from tests.servers.worker import running_worker


@pytest.fixture(scope="module")
def orders(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    with running_sftp_server(folder / "server") as server:
        yield Orders(folder / "out", server, postgres, files=50, per_file=20)


@pytest.fixture(scope="module")
def app(_valkey, orders, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    env = orders.env | {
        "ASYNCWORKER_BROKER_URL": _valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": _valkey.result_url,
        "ASYNCWORKER_STATE_DIR": str(state),
        "ASYNCWORKER_INCLUDE": pipeline.__name__,
    }
    with (
        running_worker(state, "--without-mingle", env=env),
        client_app(_valkey, asyncworker_state_dir=str(state)) as client,
    ):
        yield client


@pytest.fixture
def tasks(app):
    class Tasks:
        def __getattr__(self, name):
            return app.tasks[f"{pipeline.__name__}.{name}"]

    return Tasks()


def test_all_orders_of_all_files(tasks, orders):
    load = tasks.load_orders.partial().options(concurrency=20, retries=3, key="path")
    result = load.iterate(path=tasks.list_orders.s(str(orders.folder))).delay()
    result.get(timeout=120)
    assert sum(result.results()) == 1000
    assert orders.query("SELECT count(*), sum(amount) FROM orders") == [(1000, sum(range(1000)))]


def test_the_day_after_only_new_files_run(tasks, orders):
    load = tasks.load_orders.partial().options(concurrency=20, retries=3, key="path", name="orders")
    first = load.iterate(path=tasks.list_orders.s(str(orders.folder))).delay()
    first.get(timeout=120)
    (orders.folder / "late.xml").write_text('<order number="1000"><sku>A-17</sku><amount>1</amount></order>')
    assert first.resume().get(timeout=120)["resumed"] == 50
    assert orders.query("SELECT count(*) FROM orders") == [(1001,)]


def test_a_file_that_cannot_be_parsed_is_named_and_the_others_are_stored(tasks, orders):
    (orders.folder / "broken.xml").write_text("<orders><order")
    result = (
        tasks.load_orders.partial().options(key="path").iterate(path=tasks.list_orders.s(str(orders.folder))).delay()
    )
    with pytest.raises(SyntaxError):
        result.get(timeout=120)
    (failure,) = result.errors()
    assert failure.key.endswith("broken.xml")
