"""The caller's wishes for whole folders: one frozen value for each direction, and its keywords at the door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from asyncworker.errors import SettingsError
from asyncworker.sftp.file_end import READ_TO, ReadTo
from asyncworker.sftp.filters import Patterns, Rule
from asyncworker.sftp.options import PoolOptions, one_of
from asyncworker.sftp.progress import OnFile, OnProgress
from asyncworker.sftp.selection import SKIPS, Age, Selection, Skip

__all__ = ["DownloadKeywords", "DownloadOptions", "SyncKeywords", "TransferOptions", "UploadKeywords", "UploadOptions"]


#: What becomes of symbolic links.
Links = Literal["skip", "follow", "keep"]
LINKS = ("skip", "follow", "keep")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """Options of a transfer in either direction. Paths are relative to the folder that is moved, with slashes.

    Attributes:
        include: Patterns, one of which a file must meet: ``*.xml``; ``sub/`` is a folder and all that is in it.
        exclude: Patterns that a file must not meet, nor a folder on the way to it: ``*.tmp``, ``old/``.
        filters: Rules in their order, ``"+ *.xml"`` or ``"- sub/"``, as rsync has them: the first one that is met
            decides. They come before ``exclude``, which comes before ``include``.
        paths: Only these paths; a folder among them stands for all that is in it.
        recursive: Whether to go into folders.
        max_depth: How deep: 0 stays in the first folder; ``None``: no limit.
        min_size_bytes: Leave smaller files out.
        max_size_bytes: Leave larger files out.
        newer_than: Leave files out that were changed before that moment, a datetime or so long ago.
        older_than: Leave files out that were changed then or later.
        skip: Leave out a file that is there already: ``same`` size and time of change, same ``size``, as new or
            ``newer``, of the same contents (``checksum``: by digests where the server makes some, else both are read),
            or ``never``.
        links: ``skip`` leaves links out; ``follow`` moves the file that a link leads to; ``keep`` makes a link on the
            other side, if it stays within the folder that is moved: one that is absolute or leads out is an error in
            the report. Links to folders are never gone into.
        folder_times: Whether to give folders below the first one the times of change that they come with, at the end.
        resume: Whether to keep and use parts of large files.
        fsync: Flush each file to the disk before it appears; on a server, where it offers that.
        allow_empty: Whether it is well that no file meets a pattern, in the path or in ``include``; else that is an
            error in the report.
        at_once: Small files at once; ``None``: as many as the connections take.
        retries: Tries after the first of a file whose connection is lost or cannot be made.
        max_failures: Stop once more files than that have failed; ``None``: never.
        dry_run: Move nothing; ``on_file`` gets what would be moved.
        on_progress: Called five times a second, and at the end; awaited if it is async.
        on_file: Called with the result of each file that was to be moved.
        on_skipped: Called with each file that is left out, and why.
    """

    include: Patterns = ()
    exclude: Patterns = ()
    filters: Iterable[str | Rule] | str = ()
    paths: Iterable[str] | None = None
    recursive: bool = True
    max_depth: int | None = None
    min_size_bytes: int = 0
    max_size_bytes: int | None = None
    newer_than: Age | None = None
    older_than: Age | None = None
    skip: Skip = "same"
    links: Links = "skip"
    folder_times: bool = True
    resume: bool = True
    fsync: bool = False
    allow_empty: bool = False
    at_once: int | None = None
    retries: int = 3
    max_failures: int | None = None
    dry_run: bool = False
    on_progress: OnProgress | None = None
    on_file: OnFile | None = None
    on_skipped: OnFile | None = None

    def __post_init__(self) -> None:
        one_of("skip", self.skip, SKIPS)
        one_of("links", self.links, LINKS)
        for name, least in (("max_depth", 0), ("max_size_bytes", 0), ("at_once", 1), ("max_failures", 0)):
            _at_least(name, getattr(self, name), least, none=True)
        for name in ("min_size_bytes", "retries"):
            _at_least(name, getattr(self, name), 0, none=False)
        if isinstance(self.paths, str):
            raise SettingsError(f"paths is {self.paths!r}: a list of paths is needed")
        for name in ("include", "exclude", "filters"):  # an iterator would be empty the second time
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))

    @classmethod
    def split(cls, given: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the options of the transfer, and those of the pool.

        Raises:
            SettingsError: A value that is not allowed.
        """
        mine = cls.__dataclass_fields__
        options = cls(**{name: value for name, value in given.items() if name in mine})
        return options, {name: value for name, value in given.items() if name not in mine}

    @property
    def depth(self) -> int | None:
        """How deep to go, whether that was said by ``max_depth`` or ``recursive``."""
        return self.max_depth if self.recursive else 0

    @property
    def selection(self) -> Selection:
        """The choice of files.

        Raises:
            SettingsError: A pattern or an age that is none.
        """
        return Selection(
            self.include,
            self.exclude,
            self.min_size_bytes,
            self.max_size_bytes,
            filters=self.filters,
            newer_than=self.newer_than,
            older_than=self.older_than,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions(TransferOptions):
    """Options of a download.

    Attributes:
        case_collisions: ``refuse`` a name that differs from an earlier one only in case; ``auto`` does where the local
            file system takes them for one.
        read_to: Where a file ends, as for :meth:`SFTPPool.get`: at the announced ``size``, at ``eof``, or where it did
            when it was opened: a ``snapshot``. With the latter two a large file comes over one connection, and no part
            of it is kept.
        read_once: Open each file once, and read no byte of it twice, as for :meth:`SFTPPool.get`: a large file comes
            over one connection, and no part of it is kept.
    """

    case_collisions: Literal["auto", "refuse", "allow"] = "auto"
    read_to: ReadTo = "size"
    read_once: bool = False

    def __post_init__(self) -> None:
        TransferOptions.__post_init__(self)
        one_of("case_collisions", self.case_collisions, ("auto", "refuse", "allow"))
        one_of("read_to", self.read_to, READ_TO)
        if self.read_once and self.skip == "checksum":
            raise SettingsError("skip='checksum' reads files to compare them: not with read_once")

    @property
    def in_stripes(self) -> bool:
        """Whether a large file may be opened several times, and be one of a listed size and time."""
        return self.read_to == "size" and not self.read_once


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions(TransferOptions):
    """Options of an upload.

    Attributes:
        check_space: End with an error as soon as it is known that the server's disk cannot hold it all, where the
            server tells: before anything is sent if it is one file, or one folder without others in it.
        inplace: Write each file under its own name, for folders where nothing may be renamed, or whose reader takes
            every name that appears. A reader may see a part of it. After a failure, the part is removed if there was
            no file of that name before; otherwise it stays in the place of the old file, and the error names it.
    """

    check_space: bool = True
    inplace: bool = False


class TransferKeywords(PoolOptions, total=False):
    """As for :class:`TransferOptions`, and those of a pool."""

    include: Patterns
    exclude: Patterns
    filters: Iterable[str | Rule] | str
    paths: Iterable[str] | None
    recursive: bool
    max_depth: int | None
    min_size_bytes: int
    max_size_bytes: int | None
    newer_than: Age | None
    older_than: Age | None
    skip: Skip
    links: Links
    folder_times: bool
    resume: bool
    fsync: bool
    allow_empty: bool
    at_once: int | None
    retries: int
    max_failures: int | None
    dry_run: bool
    on_progress: OnProgress | None
    on_file: OnFile | None
    on_skipped: OnFile | None


class DownloadKeywords(TransferKeywords, total=False):
    """As for :class:`DownloadOptions`, and those of a pool."""

    case_collisions: Literal["auto", "refuse", "allow"]
    read_to: ReadTo
    read_once: bool


class UploadKeywords(TransferKeywords, total=False):
    """As for :class:`UploadOptions`, and those of a pool."""

    check_space: bool
    inplace: bool


class SyncKeywords(DownloadKeywords, UploadKeywords, total=False):
    """As for :class:`~asyncworker.sftp.sync.SyncOptions`, and those of the direction and of a pool."""

    delete: bool
    delete_excluded: bool
    max_delete: int | None
    force: bool


def _at_least(name: str, value: object, least: int, *, none: bool) -> None:
    if value is None and none:
        return
    if not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} is {value!r}: a whole number of {least} or more is needed")
