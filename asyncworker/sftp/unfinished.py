"""Large files that are under way on a pool: who closes it waits for them to be kept or removed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

__all__ = ["Unfinished"]


class Unfinished:
    """Paths of files that are not whole, while a coroutine of the pool cares for them. Used on one loop."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._ended = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._paths)

    @property
    def paths(self) -> list[str]:
        """The paths, on the server or here."""
        return list(self._paths)

    @contextlib.contextmanager
    def holding(self, path: str) -> Iterator[None]:
        """Count a path within the block, at whose end its file is whole, kept for another run, or removed."""
        self._paths.append(path)
        try:
            yield
        finally:
            self._paths.remove(path)
            self._ended.set()

    async def over(self) -> None:
        """Wait until there are none."""
        while self._paths:
            self._ended.clear()
            await self._ended.wait()
