"""The matrix of operations, servers and transports in its short form: a cell is green, or says why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sftp_matrix.operations import LONG, OPERATIONS
from tests.sftp_matrix.run import run_column
from tests.sftp_matrix.servers import SERVERS, TRANSPORTS, Running, running

#: All that any of these servers cannot do; a cell that begins to say so is looked at.
CANNOT = {
    "paramiko": {"statvfs", "names that are no text"},
    "proftpd": {"symlink and readlink", "links kept"},
}


@pytest.fixture(params=SERVERS)
def column(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Running]]:
    """A kind of server, and one of it that runs."""
    with running(request.param, tmp_path / "server") as server:
        yield request.param, server


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_operation_on_every_server(tmp_path: Path, column: tuple[str, Running], transport: str) -> None:
    kind, server = column
    cells = await run_column(kind, transport, server, tmp_path, short=True)
    assert [f"{cell.row}: {cell.why}" for cell in cells if not cell.ok] == []
    assert {cell.row for cell in cells if cell.mark == "cannot"} == CANNOT.get(kind, set())
    assert {cell.row for cell in cells} == OPERATIONS.keys() - set(LONG)
