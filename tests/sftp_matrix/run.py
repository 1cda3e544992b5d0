"""Runs the rows of one column, one after the other."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.integration.sftp.conftest import ThroughSsh, pool_of
from tests.sftp_matrix.ground import Cannot, Ground
from tests.sftp_matrix.operations import LONG, OPERATIONS
from tests.sftp_matrix.servers import Running

__all__ = ["Cell", "run_column"]

#: An operation that takes longer has hung.
_TIMEOUT_S = 300
#: So that a transfer can be stopped before it is through.
_SLOW_BYTES_PER_S = 20_000_000


@dataclass(frozen=True)
class Cell:
    """How an operation ended on a server.

    Attributes:
        row: The operation.
        ok: Whether it did what it should, or cannot be done there.
        why: Why it cannot be done, or what went wrong.
    """

    row: str
    ok: bool
    why: str = ""

    @property
    def mark(self) -> str:
        return ("cannot" if self.why else "ok") if self.ok else "FAILED"


async def run_column(
    kind: str, transport: str, server: Running, folder: Path, *, short: bool, rows: tuple[str, ...] = ()
) -> list[Cell]:
    """Run all operations, or those rows, over one transport."""
    found, far_of = server
    reached = ThroughSsh(found) if transport == "openssh" else found
    cells = []
    async with pool_of(reached) as pool, pool_of(reached, max_bytes_per_s=_SLOW_BYTES_PER_S) as slow:
        for number, (name, operation) in enumerate(OPERATIONS.items()):
            if (short and name in LONG) or (rows and name not in rows):
                continue
            local = folder / f"{transport}-{number}"
            local.mkdir(parents=True)
            ground = Ground(pool, slow, kind, far_of(f"{transport}-{number}"), local, short)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await operation(ground)
            except Cannot as reason:
                cells.append(Cell(name, True, str(reason)))
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[1]
                cells.append(Cell(name, False, f"{type(error).__name__}: {error!s:.400} ({where.name}:{where.lineno})"))
            else:
                cells.append(Cell(name, True))
    return cells
