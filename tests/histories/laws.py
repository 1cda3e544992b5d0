"""Run a history in virtual time, with files so small that a history takes milliseconds."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from asyncworker.sftp import part_claims, sending, striped, stripedput
from tests.histories.clockwork import LawBroken, VirtualLoop
from tests.histories.network import World

__all__ = ["LawBroken", "Story", "run_history"]

#: The package's ``download`` is a function.
_download: Any = sys.modules["asyncworker.sftp.download"]
_SIZES: dict[Any, dict[str, int]] = {
    sending: {"_FIRST_BYTES": 200, "_BLOCK_BYTES": 200, "_WINDOW_BYTES": 400},
    stripedput: {"_SPAN_BYTES": 300, "_WINDOW_BYTES": 200, "_BLOCK_BYTES": 100, "_COMPARED_BYTES": 300},
    striped: {"_WINDOW_BYTES": 200, "_BLOCK_BYTES": 100, "_WRITE_BYTES": 200},
    _download: {"_STRIPED_BYTES": 300, "LARGE_BYTES": 200},
}


class Story(Protocol):
    """A history: what happens, and its laws."""

    world: World

    @property
    def endings(self) -> list[str]:
        """How each process has ended."""

    async def run(self, said: list[str]) -> None:
        """Let it happen; ``said`` grows with what is logged. Raises LawBroken."""


S = TypeVar("S", bound=Story)


class _Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _small_files(strangers: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in _SIZES.items():
            for name, size in sizes.items():
                patch.setattr(module, name, size)
        if strangers:
            patch.setattr(part_claims, "is_of_this_process", lambda _: False)
            patch.setattr(part_claims, "owner_has_ended", lambda _: False)
        yield


def run_history(make: Callable[[str, Path], S], seed: str) -> S:
    """Run the history of a seed.

    Raises:
        LawBroken: A law does not hold; the message is the history.
    """
    random.seed(seed)
    strangers = random.random() < 0.5  # whether nobody can tell of a process whether it lives
    said = _Said()
    logger = logging.getLogger("asyncworker.sftp")
    logger.addHandler(said)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        stack.callback(logger.removeHandler, said)
        folder = Path(name) / "files"
        folder.mkdir()
        story = make(seed, folder)
        loop = VirtualLoop(story.world.step)
        stack.callback(loop.close)
        try:
            with _small_files(strangers):
                loop.run_until_complete(story.run(said.lines))
        except LawBroken as error:
            happened = "\n".join([str(story), f"refused: {story.world.server.refuse}", *story.world.log])
            raise LawBroken(f"history {seed}: {error}\n{happened}") from error
    return story
