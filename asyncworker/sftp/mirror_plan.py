"""Deletions of a mirror: all that only the destination has, unless a filter protects it."""

from __future__ import annotations

from collections.abc import Iterator

from asyncworker.sftp.filters import Filters
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.temporary_names import is_ours

__all__ = ["Inventory", "MirrorPlan", "Step"]

#: A path below the destination, and whether it is a folder.
Step = tuple[str, bool]


class Inventory:
    """The paths that a source has, whether they are moved or not; those that filters leave out may be missing."""

    def __init__(self) -> None:
        self.files = 0
        self._kinds: dict[str, bool | None] = {}

    def add(self, path: str, attributes: Attributes) -> None:
        """Take a path."""
        self.files += not attributes.is_dir
        self._kinds[path] = True if attributes.is_dir else False if attributes.is_file else None

    def __contains__(self, path: str) -> bool:
        return path in self._kinds

    def is_dir(self, path: str) -> bool | None:
        """Return whether a path of the source is a folder; ``None``: neither a folder nor a file, or missing."""
        return self._kinds.get(path)


class MirrorPlan:
    """Takes the paths of a destination, a folder before what is in it, and knows then what is to be deleted.

    Args:
        inventory: What the source has.
        filters: What they leave out is protected.
        delete_excluded: Delete what the filters leave out instead.
        replace: Whether a folder goes where the source has a file, and the other way round.
    """

    def __init__(self, inventory: Inventory, filters: Filters, *, delete_excluded: bool, replace: bool) -> None:
        self._inventory = inventory
        self._filters = filters
        self._delete_excluded = delete_excluded
        self._replace = replace
        self._files: list[str] = []
        self._folders: list[str] = []
        self._kept: set[str] = set()
        self._whole: set[str] = set()  # excluded folders, which are deleted with all that is in them
        self._conflicts: list[str] = []

    def enters(self, folder: str) -> bool:
        """Return whether something in a folder of the destination may have to be deleted."""
        if not self._filters.reaches(f"{folder}/"):
            return self._delete_excluded
        if folder in self._inventory and self._inventory.is_dir(folder) is not True:
            return self._replace and self._inventory.is_dir(folder) is False
        return True

    def see(self, path: str, is_dir: bool) -> None:
        """Take a path of the destination."""
        if is_ours(path.rpartition("/")[2]):  # of a transfer that is under way, or goes on later
            self._keep(path)
        elif path.rpartition("/")[0] in self._whole:
            self._delete(path, is_dir, whole=True)
        elif not (self._filters.enters(path) if is_dir else self._filters.wants(path)):
            if self._delete_excluded:
                self._delete(path, is_dir, whole=True)
            else:
                self._keep(path)
        elif path not in self._inventory:
            self._delete(path, is_dir)
        elif self._replace and self._inventory.is_dir(path) is (not is_dir):
            self._conflicts.append(path)
            self._delete(path, is_dir)
        else:
            self._keep(path)

    def steps(self) -> Iterator[Step]:
        """Give out what is to be deleted: files, then folders from the deepest up; those that keep something stay."""
        for path in self._files:
            yield path, False
        for path in sorted(self._folders, key=lambda path: -path.count("/")):
            if path not in self._kept:
                yield path, True

    def conflicts(self) -> Iterator[Step]:
        """Give out those steps alone that make room for what is moved."""
        below = tuple(f"{path}/" for path in self._conflicts)
        own = set(self._conflicts)
        for path, is_dir in self.steps():
            if path in own or path.startswith(below):
                yield path, is_dir

    def _delete(self, path: str, is_dir: bool, *, whole: bool = False) -> None:
        (self._folders if is_dir else self._files).append(path)
        if whole and is_dir:
            self._whole.add(path)

    def _keep(self, path: str) -> None:
        above = path.rpartition("/")[0]
        while above and above not in self._kept:
            self._kept.add(above)
            above = above.rpartition("/")[0]
