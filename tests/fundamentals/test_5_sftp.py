"""Files from an SFTP server: one pool a server, thousands of files at once, each whole or not there."""

import asyncio

import pytest

from asyncworker.errors import SFTPFileNotFound, SFTPHostKeyError
from asyncworker.sftp import SFTPPool
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
