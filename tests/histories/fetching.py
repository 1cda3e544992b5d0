"""One history of two downloads of one file into one place, while a third process replaces the file on the server.

At any time the local file is the old one or a version that was on the server, whole. In the end it is the latter if a
download has succeeded, and nothing is beside it but a part that the next run uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from asyncworker.errors import SFTPError
from asyncworker.sftp import SFTPPool, download
from asyncworker.sftp.temporary_names import Part, parse
from tests.histories.clockwork import Inline
from tests.histories.laws import LawBroken
from tests.histories.network import Client, Fault, World
from tests.servers.sftp_hostile import FAILURE, PERMISSION_DENIED, UNSUPPORTED, Hostile, Request

__all__ = ["Fetching"]

GOAL = "/goal"
_FIRST_REQUESTS = 60


@dataclass
class Reader:
    """One process that fetches the file: ``get``, or ``download``, which keeps a part."""

    client: Client
    how: str
    begins_at: int
    done: bool = False
    error: BaseException | None = None


@dataclass
class Fetching:
    """What is to happen, all of it decided by the seed."""

    seed: str
    folder: Path
    world: World = field(init=False)
    readers: list[Reader] = field(default_factory=list)
    broken: str = ""

    def __post_init__(self) -> None:
        self.chance = chance = random.Random(self.seed)
        server = Hostile(limits=(262_144, 100, 100, 64), without=() if chance.random() < 0.5 else ("posix-rename",))
        self.world = World(server, chance, changed=self._changed)
        self.versions = [b"a" * chance.choice((150, 900)), b"b" * chance.choice((200, 1000))]
        server.tree.write(GOAL, self.versions[0], mtime=1)
        self.goal = self.folder / "goal"
        self.whole = list(self.versions)
        if chance.random() < 0.5:
            self.whole.append(b"what was here before")
            self.goal.write_bytes(self.whole[-1])
        codes = (PERMISSION_DENIED, FAILURE, UNSUPPORTED)
        for _ in range(chance.choice((0, 1, 2, 3))):
            kind = chance.choice(("refuse", "cut", "cut", "kill"))
            fault = Fault(kind, chance.random() < 0.5, chance.choice(codes))
            self.world.faults[chance.randint(1, _FIRST_REQUESTS)] = fault
        for number in range(2):
            how = chance.choice(("get", "download", "download"))
            self.readers.append(
                Reader(Client(self.world, f"reader {number}"), how, number * chance.choice((0, 5, 15, 30)))
            )

    def __str__(self) -> str:
        return "\n".join(f"{reader.client.name}: {reader.how}: {reader.error!r}" for reader in self.readers)

    @property
    def endings(self) -> list[str]:
        """How each reader has ended."""
        return ["ok" if reader.done else type(reader.error).__name__ for reader in self.readers]

    def _changed(self, request: Request) -> None:
        if not self.broken and self.goal.exists() and self.goal.read_bytes() not in self.whole:
            self.broken = f"after {request.kind} the local file is {self.goal.read_bytes()[:40]!r}..."

    async def run(self, said: list[str]) -> None:
        """Let it happen, and check the laws."""
        pools = [self._pool(reader.client) for reader in self.readers]
        tasks = []
        for reader, pool in zip(self.readers, pools, strict=True):
            task = asyncio.create_task(self._read(reader, pool))
            task.add_done_callback(lambda _: self.world.begin_all())
            reader.client.on_kill = task.cancel
            tasks.append(task)
        await asyncio.gather(self._replace(), asyncio.wait(tasks))
        for pool in pools:
            await pool.close()
        if self.broken:
            raise LawBroken(self.broken)
        self._check_end()
        await self._calm()

    def _pool(self, client: Client) -> SFTPPool:
        pool = SFTPPool("server", connections=2, connect=client.connect, known_hosts=None)
        pool._executor = Inline()
        return pool

    async def _replace(self) -> None:
        if self.chance.random() < 0.5:
            path = self.folder.parent / "new"
            path.write_bytes(self.versions[1])
            async with self._pool(Client(self.world, "writer")) as pool:
                with contextlib.suppress(SFTPError):
                    await pool.put(path, GOAL)

    async def _read(self, reader: Reader, pool: SFTPPool) -> None:
        await self.world.reached(reader.begins_at)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: pool.get(GOAL, self.goal),
            "download": lambda: self._download(pool),
        }
        try:
            await calls[reader.how]()
            reader.done = True
        except (SFTPError, OSError, asyncio.CancelledError) as error:
            reader.error = error

    async def _download(self, pool: SFTPPool) -> None:
        report = await download(pool, GOAL, self.goal, skip="never")
        for failed in report.errors:
            assert failed.error is not None
            raise failed.error

    def _check_end(self) -> None:
        content = self.goal.read_bytes() if self.goal.exists() else None
        if any(reader.done for reader in self.readers) and content not in self.versions:
            raise LawBroken("a download has succeeded, and the file is not there")
        for path in self.folder.iterdir():
            if path != self.goal and not isinstance(parse(path.name), Part):
                raise LawBroken(f"{path.name} is left")

    async def _calm(self) -> None:
        self.world.faults.clear()
        async with self._pool(Client(self.world, "calm")) as pool:
            if not await pool.exists(GOAL):
                return  # its writer was killed between two renames
            await self._download(pool)
        if self.goal.read_bytes() != self.world.server.tree.read(GOAL):
            raise LawBroken("a download without faults has not brought the file")
