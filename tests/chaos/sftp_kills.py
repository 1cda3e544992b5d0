"""Transfers that are ended at random moments: ``python -m tests.chaos.sftp_kills --rounds 10 --files 17000``.

A round moves a tree of small and large files up to a real OpenSSH server and down from it, over each transport. The
command gets SIGINT, SIGTERM or SIGKILL at random moments (seeded), again and again; then it may run to its end. What a
signal that can be caught has ended leaves nothing but parts of large files. After the last run every byte is right, and
neither side has anything else: no temporary file, no part.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncworker.sftp.temporary_names import Part, is_ours, parse
from tests.servers.command import ROOT
from tests.servers.sshd import Sshd, running_sshd

__all__ = ["SIGNALS", "Ended", "Plan", "rounds"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TRANSPORTS = ("asyncssh", "openssh")
#: In one piece; over several connections, without a part that is kept; with one.
LARGE_BYTES = (3_000_000, 20_000_000, 120_000_000)
END_S = 1800.0
#: What a command that ends cleanly never says.
NOISE = ("Traceback", "never retrieved", "Exception ignored", "was destroyed")


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        rounds: How often, for each direction and transport.
        files: Small files in the tree.
        large: Large files of each size in it.
        kills: How often a transfer is ended at most before it may run to its end.
        seed: Decides the moments and the signals.
        signals: Those that are sent.
    """

    rounds: int = 10
    files: int = 17_000
    large: int = 2
    kills: int = 3
    seed: int = 0
    signals: tuple[signal.Signals, ...] = SIGNALS


@dataclass(frozen=True)
class Ended:
    """How one transfer went.

    Attributes:
        direction: ``put`` or ``get``.
        transport: ``asyncssh`` or ``openssh``.
        signals: What ended it, in order.
        left: How many files that are not whole each of them has left.
        files: How many there are in the end.
    """

    direction: str
    transport: str
    signals: list[str]
    left: list[int]
    files: int


def rounds(plan: Plan, folder: Path) -> Iterator[Ended]:
    """Run them all; raises AssertionError where one breaks its promise."""
    tree = _Tree(folder / "source", plan)
    with running_sshd(folder / "sshd") as server:
        for number in range(plan.rounds):
            for transport in TRANSPORTS:
                for direction in ("put", "get"):
                    goal = folder / "goal"
                    chance = random.Random(f"{plan.seed}/{number}/{transport}/{direction}")
                    yield _Transfer(plan, server, tree, goal, direction, transport).run(chance)
                    shutil.rmtree(goal)


class _Tree:
    """The files that are moved."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        chance = random.Random(plan.seed)
        self.files = {f"{n % 13}/{n:06}": chance.randbytes(chance.randrange(8000)) for n in range(plan.files)}
        for size in LARGE_BYTES:
            self.files |= {f"{n % 13}/large-{size}-{n}": chance.randbytes(size) for n in range(plan.large)}
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def check(self, folder: Path) -> None:
        """Check that a folder is the same, and holds nothing else."""
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
        assert found == self.files.keys(), f"{folder}: {sorted(found ^ self.files.keys())[:10]}"
        for name, content in self.files.items():
            assert (folder / name).read_bytes() == content, f"{folder / name} has other bytes"


class _Transfer:
    """One tree, moved to an empty place."""

    def __init__(self, plan: Plan, server: Sshd, tree: _Tree, goal: Path, direction: str, transport: str) -> None:
        self._plan = plan
        self._tree = tree
        self._goal = goal
        self._direction = direction
        self._transport = transport
        self._was_killed = False
        url = f"sftp://{server.username}@127.0.0.1:{server.port}"
        where = [str(tree.folder), f"{url}{goal}"] if direction == "put" else [f"{url}{tree.folder}", str(goal)]
        login = ["-i", str(server.client_key), "--known-hosts", str(server.known_hosts)]
        ssh = ["--openssh", "--ssh-config", "/dev/null"] if transport == "openssh" else []
        self._command = [sys.executable, "-m", "asyncworker", "sftp", direction, *where, "-q", *login, *ssh]

    def run(self, chance: random.Random) -> Ended:
        """End it, again and again, and let it run to its end."""
        signals: list[str] = []
        left: list[int] = []
        for _ in range(chance.randint(1, self._plan.kills)):
            number = chance.choice(self._plan.signals)
            if self._end(number, self._moment(chance)):
                signals.append(number.name)
                left.append(len(self._not_whole()))
        with self._started() as process:
            said = process.communicate(timeout=END_S)[0]
        assert process.returncode == 0, f"{self._direction} over {self._transport}: {process.returncode}: {said}"
        self._tree.check(self._goal)
        self._tree.check(self._tree.folder)
        return Ended(self._direction, self._transport, signals, left, len(self._tree.files))

    def _moment(self, chance: random.Random) -> Callable[[], bool]:
        """While it is imported, while it connects, or when so many files have arrived."""
        if chance.random() < 0.25:
            end_at = time.monotonic() + chance.uniform(0.05, 2)
            return lambda: time.monotonic() >= end_at
        wanted = chance.randrange(len(self._tree.files))
        return lambda: self._count() >= wanted

    def _end(self, number: signal.Signals, is_due: Callable[[], bool]) -> bool:
        """Start it and end it at that moment; returns whether that was before it was through."""
        with self._started() as process:
            while process.poll() is None and not is_due():
                time.sleep(0.002)
            in_time = process.poll() is None
            process.send_signal(number)
            said = process.communicate(timeout=END_S)[0]
        if number != signal.SIGKILL and process.returncode != 0:
            # In the first milliseconds nothing of ours runs yet that could catch it, and Python itself may fail by it.
            starting = "init_import_site" in said
            assert starting or process.returncode in (128 + number, -number), (
                f"{number.name}: {process.returncode}: {said}"
            )
            if process.returncode == 128 + number:
                assert not [noise for noise in NOISE if noise in said], said
            left = [path for path in self._not_whole() if not isinstance(parse(path.name), Part)]
            assert not left or self._was_killed, f"{number.name} left {left[:10]}"
        self._was_killed = self._was_killed or number == signal.SIGKILL
        return in_time

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _count(self) -> int:
        return sum(len(names) for _, _, names in os.walk(self._goal))

    def _not_whole(self) -> list[Path]:
        return [path for path in self._goal.rglob("*") if is_ours(path.name)]


def main() -> None:
    """Run the rounds and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--files", type=int, default=17_000)
    parser.add_argument("--large", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plan = Plan(rounds=given.rounds, files=given.files, large=given.large, seed=given.seed)
    with tempfile.TemporaryDirectory(prefix="sftp-kills-") as folder:
        for number, ended in enumerate(rounds(plan, Path(folder)), 1):
            what = ", ".join(f"{name} left {left}" for name, left in zip(ended.signals, ended.left, strict=True))
            which = f"{ended.direction} over {ended.transport}"
            print(f"{number}: {which}: {what or 'undisturbed'}; {ended.files} files right", flush=True)


if __name__ == "__main__":
    main()
