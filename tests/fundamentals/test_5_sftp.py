"""Files from an SFTP server: one pool a server, thousands of files at once, each whole or not there."""

import asyncio

import pytest
from celery import Celery

from asyncworker import install
from asyncworker.errors import SFTPFileNotFound, SFTPHostKeyError
from asyncworker.sftp import SFTPPool, download, upload
from tests.servers.sftp import running_sftp_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_sftp_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orders")
    for number in range(100):
        (folder / f"{number}.xml").write_text(f"<order>{number}</order>")
    return folder


@pytest.fixture
def login(server):
    return {
        "port": server.port,
        "username": server.username,
        "password": server.password,
        "known_hosts": server.known_hosts,
    }


async def test_list_and_get(server, login, orders, tmp_path):
    async with SFTPPool(server.host, **login) as pool:
        entries = [entry async for entry in pool.list(orders)]
        await asyncio.gather(*[pool.get(entry.path, tmp_path / entry.name) for entry in entries])
    assert (tmp_path / "42.xml").read_text() == "<order>42</order>"
    assert len(list(tmp_path.iterdir())) == 100


async def test_a_missing_file_is_an_error_that_names_it(server, login, tmp_path):
    async with SFTPPool(server.host, **login) as pool:
        with pytest.raises(SFTPFileNotFound, match=r"/nothing\.xml"):
            await pool.get("/nothing.xml", tmp_path / "nothing.xml")
    assert not list(tmp_path.iterdir())


async def test_a_server_that_is_not_known_gets_no_password(server, login, tmp_path):
    (tmp_path / "known_hosts").touch()
    async with SFTPPool(server.host, **{**login, "known_hosts": tmp_path / "known_hosts"}) as pool:
        with pytest.raises(SFTPHostKeyError, match="known_hosts"):
            await pool.stat("/")


# -- whole folders -----------------------------------------------------------------------------------------------------


async def test_a_folder_comes_down_and_the_next_run_moves_only_what_changed(server, login, orders, tmp_path):
    report = await download(server.host, orders, tmp_path, include="*.xml", **login)
    assert report.ok
    assert report.files_done == 100
    (tmp_path / "7.xml").unlink()
    again = await download(server.host, orders, tmp_path, **login)
    assert (again.files_done, again.files_skipped) == (1, 99)


async def test_one_that_fails_is_in_the_report_and_does_not_end_the_rest(server, login, orders, tmp_path):
    (tmp_path / "13.xml").mkdir()  # in the way
    report = await download(server.host, orders, tmp_path, **login)
    assert report.files_done == 99
    (failed,) = report.errors
    assert failed.local == str(tmp_path / "13.xml")
    with pytest.raises(ExceptionGroup):
        report.raise_for_errors()


async def test_a_folder_goes_up(server, login, orders, tmp_path):
    report = await upload(server.host, orders, tmp_path / "made" / "there", exclude="9*", **login)
    assert report.files_done == 89
    assert (tmp_path / "made" / "there" / "42.xml").read_text() == "<order>42</order>"


# -- streams, and many files with a result each ------------------------------------------------------------------------


async def test_a_file_is_read_without_being_held_in_memory(server, login, orders):
    async with SFTPPool(server.host, **login) as pool, pool.open(orders / "42.xml") as file:
        assert await file.read(7) == b"<order>"
        assert b"".join([block async for block in file]) == b"42</order>"


async def test_get_many_gives_a_result_for_each(server, login, orders, tmp_path):
    pairs = [(orders / f"{number}.xml", tmp_path / f"{number}.xml") for number in (1, 2, 1000)]
    async with SFTPPool(server.host, **login) as pool:
        results = [result async for result in pool.get_many(pairs)]
    assert [result.remote for result in results if not result.ok] == [str(orders / "1000.xml")]


# -- with a checkpoint -------------------------------------------------------------------------------------------------


async def test_a_folder_as_a_fan_out(server, login, orders, tmp_path, monkeypatch):
    """Each file is an item: with retries, a time limit and a place in the checkpoint. On a worker: ``.delay()``."""
    monkeypatch.setenv("ASYNCWORKER_STATE_DIR", str(tmp_path / "state"))
    app = install(Celery("shop", set_as_current=False))
    goal = tmp_path / "in"
    goal.mkdir()

    @app.task(name="shop.fetch_order")
    async def fetch_order(path):
        async with SFTPPool(server.host, **login) as pool:  # on a worker: await sftp.pool(host), shared by all items
            return (await pool.get(path, goal / path.rpartition("/")[2])).size_bytes

    async def paths():
        async with SFTPPool(server.host, **login) as pool:
            async for entry in pool.walk(orders):
                if entry.is_file and entry.name.startswith("1"):
                    yield entry.path

    sizes = await fetch_order.partial().options(concurrency=4, retries=2, key="path").iterate(path=paths()).run()
    assert len(list(goal.iterdir())) == len(sizes) == 11
