"""One history: writers of one file, what happens to them, and the laws that hold whatever happens.

At any time a reader finds the old file or a new one, whole; on a server whose rename replaces nothing there may be none
for a moment, and then one stands whole under the name of a file that was moved aside. In the end what was reported is
what is there, and nothing is left behind but parts that another run uses, and what an error or the log has named.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError
from asyncworker.sftp import SFTPPool
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.stripedput import StripedUpload
from asyncworker.sftp.temporary_names import Aside, Part, is_ours, parse
from tests.histories.clockwork import Inline
from tests.histories.laws import LawBroken
from tests.histories.network import Client, Fault, World
from tests.servers.sftp_hostile import FAILURE, PERMISSION_DENIED, UNSUPPORTED, Hostile, Request
from tests.servers.sftp_hostile.tree import File

__all__ = ["Writing"]

GOAL = "/goal"
OLD = b"o" * 700
_CODES = (PERMISSION_DENIED, FAILURE, UNSUPPORTED)
_KINDS = ("RENAME", "posix-rename", "SETSTAT", "FSETSTAT", "WRITE", "CLOSE", "OPEN", "REMOVE")
_FIRST_REQUESTS = 60


@dataclass
class Writer:
    """One process that writes the file once.

    Attributes:
        how: ``put``, ``striped``, ``rename`` or ``stream``.
        content: What it writes.
        path: The same here.
        begins_at: After how many requests of the other one.
        error: How it ended; ``None`` after success.
    """

    client: Client
    how: str
    content: bytes
    path: Path
    begins_at: int
    error: BaseException | None = None
    done: bool = False

    @property
    def own(self) -> str:
        """On the server, of a file that is to be renamed."""
        return f"/own-{self.client.name[-1]}"

    @property
    def failed_for_sure(self) -> bool:
        """Whether it has said that its file is not there: a lost connection or a kill leaves that open."""
        unknown = (SFTPConnectionLost, SFTPConnectError, asyncio.CancelledError)
        if self.error is None or self.client.killed or "may have put the file in place" in str(self.error):
            return False
        return not isinstance(self.error, unknown)


@dataclass
class Writing:
    """What is to happen, all of it decided by the seed."""

    seed: str
    folder: Path
    chance: random.Random = field(init=False)
    world: World = field(init=False)
    writers: list[Writer] = field(default_factory=list)
    broken: str = ""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        chance = self.chance
        self.replaces = chance.random() < 0.4
        server = Hostile(without=() if self.replaces else ("posix-rename",), limits=(262_144, 300, 100, 64))
        self.world = World(server, chance, changed=self._changed)
        self.had_old = chance.random() < 0.8
        self.seen = self.had_old
        self.whole = [OLD]
        if self.had_old:
            server.tree.write(GOAL, OLD, mtime=1)
        if chance.random() < 0.25:  # a server that never lets anybody do that
            server.refuse = {chance.choice(_KINDS): chance.choice(_CODES)}
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            self.world.faults[chance.randint(1, _FIRST_REQUESTS)] = self._fault()
        for number in range(2):
            how = chance.choice(("put", "put", "striped", "striped", "rename", "stream"))
            content = b"%d" % number * chance.choice((150, 350, 900, 1000))
            path = self.folder / f"{number}"
            if number and chance.random() < 0.4:  # both send one file
                how, content, path = self.writers[0].how, self.writers[0].content, self.writers[0].path
            else:
                path.write_bytes(content)
            begins_at = number * chance.choice((0, 5, 15, 30, 45))
            self.writers.append(Writer(Client(self.world, f"writer {number}"), how, content, path, begins_at))
            self.whole.append(content)
            if how == "rename":
                server.tree.write(self.writers[-1].own, content)

    def __str__(self) -> str:
        return "\n".join(f"{w.client.name}: {w.how}, {len(w.content)} bytes: {w.error!r}" for w in self.writers)

    @property
    def endings(self) -> list[str]:
        """How each writer has ended."""
        return ["ok" if writer.done else type(writer.error).__name__ for writer in self.writers]

    def _fault(self) -> Fault:
        kind = self.chance.choice(("refuse", "refuse", "cut", "cut", "kill"))
        return Fault(kind, self.chance.random() < 0.5, self.chance.choice(_CODES))

    # -- at every step -----------------------------------------------------------------------------------------------

    def _changed(self, request: Request) -> None:
        if self.broken:
            return
        if request.kind == "posix-rename" and request.status == UNSUPPORTED:
            self.replaces = False  # it was offered, and is not there
        tree = self.world.server.tree
        if tree.exists(GOAL):
            self.seen = True
            if tree.read(GOAL) not in self.whole:
                self.broken = f"after {request.kind} a reader finds {tree.read(GOAL)[:40]!r}..."
        elif self.seen:
            if self.replaces:
                self.broken = f"after {request.kind} the file is missing on a server that replaces in one step"
            elif not self._aside():
                self.broken = f"after {request.kind} the file is nowhere"

    def _aside(self) -> list[str]:
        files = self.world.server.tree.files()
        return [path for path, content in files.items() if isinstance(parse(path[1:]), Aside) and content in self.whole]

    # -- the writers -------------------------------------------------------------------------------------------------

    async def run(self, said: list[str]) -> None:
        """Let it happen, and check the laws."""
        pools = [self._pool(writer.client) for writer in self.writers]
        tasks = []
        for writer, pool in zip(self.writers, pools, strict=True):
            task = asyncio.create_task(self._write(writer, pool))
            task.add_done_callback(lambda _: self.world.begin_all())
            writer.client.on_kill = task.cancel
            tasks.append(task)
        await asyncio.wait(tasks)
        for pool in pools:
            await pool.close()
        if self.broken:
            raise LawBroken(self.broken)
        self._check_end(said)
        await self._calm()

    def _pool(self, client: Client) -> SFTPPool:
        pool = SFTPPool("server", connections=2, connect=client.connect, known_hosts=None)
        pool._executor = Inline()
        return pool

    async def _write(self, writer: Writer, pool: SFTPPool) -> None:
        await self.world.reached(writer.begins_at)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: pool.put(writer.path, GOAL),
            "striped": lambda: self._striped(writer, pool).run(),
            "rename": lambda: pool.rename(writer.own, GOAL, replace=True),
            "stream": lambda: pool.put_stream([writer.content[:100], writer.content[100:]], GOAL),
        }
        try:
            await calls[writer.how]()
            writer.done = True
        except (SFTPError, OSError, asyncio.CancelledError) as error:
            writer.error = error

    def _striped(self, writer: Writer, pool: SFTPPool) -> StripedUpload:
        return StripedUpload(
            pool,
            GOAL,
            open_source=lambda: LocalSource(str(writer.path)),
            fsync=False,
            resume=True,
            on_bytes=lambda _: None,
            there=None,
        )

    # -- in the end --------------------------------------------------------------------------------------------------

    def _check_end(self, said: list[str]) -> None:
        tree = self.world.server.tree
        words = "\n".join([*said, *(str(writer.error) for writer in self.writers if writer.error is not None)])
        open_ends = any(w.client.killed or (w.error is not None and not w.failed_for_sure) for w in self.writers)
        there = tree.read(GOAL) if tree.exists(GOAL) else None
        if there is None and self.seen and not any(path in words for path in self._aside()) and not open_ends:
            raise LawBroken("the file is missing, and nothing says where it is")
        for writer in self.writers:
            others = [other.content for other in self.writers if other is not writer]
            if writer.failed_for_sure and there == writer.content and there not in others:
                raise LawBroken(f"{writer.client.name} has failed ({writer.error}), and its file is there")
            if writer.how == "rename" and writer.failed_for_sure and not tree.exists(writer.own):
                raise LawBroken(f"{writer.client.name} has failed ({writer.error}), and its source is gone")
        succeeded = [writer.content for writer in self.writers if writer.done]
        if succeeded and there == OLD and not open_ends:
            raise LawBroken("a writer has succeeded, and the old file is there")
        for path in tree.files():
            name = path[1:]
            if not is_ours(name) or path in words or isinstance(parse(name), Part):
                continue
            if not open_ends:
                raise LawBroken(f"{path} is left, and nobody has said so")
            if not any(writer.client.killed for writer in self.writers):
                raise LawBroken(f"{path} is left, though no process was killed, and nobody has said so")

    async def _calm(self) -> None:
        """Another run, without faults: it uses what was left behind, and the file is there."""
        server, world = self.world.server, self.world
        server.refuse = {}
        for path, content in server.tree.files().items():
            if isinstance(parse(path[1:]), Part) and len(content) > 300 and self.chance.random() < 0.5:
                lost = self.chance.randrange(len(content) - 300)  # by a server that has crashed
                node = server.tree.node(path)
                assert isinstance(node, File)
                node.content[lost] = 0
        world.faults.clear()
        again = next((writer for writer in self.writers if writer.how == "striped"), self.writers[0])
        async with self._pool(Client(world, "calm")) as pool:
            await self._striped(again, pool).run()
        if server.tree.read(GOAL) != again.content:
            raise LawBroken("a run without faults has not written the file")
        if again.how == "striped" and (left := [path for path in server.tree.files() if self._is_part(path, again)]):
            raise LawBroken(f"a later run has left {left}")

    def _is_part(self, path: str, writer: Writer) -> bool:
        part = parse(path[1:])
        mtime = writer.path.stat().st_mtime_ns & 0xFFFFFFFFFFFFFFFF
        return isinstance(part, Part) and (part.size, part.mtime) == (len(writer.content), mtime)
