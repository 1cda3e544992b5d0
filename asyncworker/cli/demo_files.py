"""The demo's files: XML documents that are the same on every machine, made from their number alone."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["Comparison", "compare", "file_content", "file_name", "write_files"]

#: A log-normal spread around 8 KB: the many-small-files traffic of a partner's export folder.
MEDIAN_BYTES = 8 * 1024
SPREAD = 0.55
SMALLEST_BYTES, LARGEST_BYTES = 1024, 30 * 1024

_CITIES = ("Aarhus", "Bergen", "Brno", "Cádiz", "Genève", "Göteborg", "Kraków", "Málaga", "Porto", "Tallinn", "Zürich")
_GOODS = ("bearing", "bracket", "cable & plug", "filter <fine>", "gasket", "hinge", "motor", "relay", "sensor", "valve")


def file_name(number: int) -> str:
    """Return the name of a file."""
    kind = ("order", "invoice", "reading")[number % 3]
    return f"{kind}-{number:06}.xml"


def file_content(number: int) -> bytes:
    """Return the bytes of a file."""
    chance = random.Random(number)
    wanted = chance.lognormvariate(math.log(MEDIAN_BYTES), SPREAD)
    wanted = min(max(wanted, SMALLEST_BYTES), LARGEST_BYTES - 256)
    kind = file_name(number).partition("-")[0]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<{kind} id="{number:06}" city="{chance.choice(_CITIES)}" revision="{chance.randrange(1, 9)}">',
    ]
    size = sum(len(line) + 1 for line in lines)
    position = 0
    while size < wanted:
        position += 1
        line = _line(kind, position, chance)
        size += len(line) + 1
        lines.append(line)
    lines.append(f"</{kind}>\n")
    return "\n".join(lines).encode()


def _line(kind: str, position: int, chance: random.Random) -> str:
    if kind == "reading":
        return (
            f'  <value at="2024-03-{1 + position % 28:02}T{position % 24:02}:{chance.randrange(60):02}:00Z" '
            f'unit="kPa">{chance.uniform(80, 120):.4f}</value>'
        )
    goods = chance.choice(_GOODS).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    price = f"{chance.randrange(10_00, 900_00) / 100:.2f}"
    return (
        f'  <line n="{position}"><sku>{chance.getrandbits(40):010x}</sku><name>{goods}</name>'
        f"<quantity>{chance.randrange(1, 500)}</quantity><price>{price}</price></line>"
    )


def write_files(folder: Path, count: int) -> Iterator[int]:
    """Write the files that are missing or of another size, and yield each number when its file is there.

    The bytes are not flushed to the disk one file at a time: a demo may lose them with the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path, content = folder / file_name(number), file_content(number)
        if not path.exists() or path.stat().st_size != len(content):
            try:
                path.write_bytes(content)
            except OSError as exc:
                # A full disk is told without the file's name.
                raise OSError(exc.errno, exc.strerror, str(path)) from exc
        yield number


class Comparison(msgspec.Struct, frozen=True):
    """Result of comparing a folder with the files that should be in it."""

    same: int
    same_bytes: int
    different: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything is there, byte for byte, and nothing else."""
        return not (self.different or self.missing or self.unexpected)

    def __str__(self) -> str:
        if self.complete:
            return f"all {self.same:,} files are byte-identical to their source"
        parts = []
        for label, names in (("different", self.different), ("missing", self.missing), ("extra", self.unexpected)):
            if names:
                parts.append(f"{len(names):,} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return f"{self.same:,} files are byte-identical to their source, but: {'; '.join(parts)}"


def compare(folder: Path, source: Path, count: int) -> Comparison:
    """Compare the checksum of every file in ``folder`` with that of its source."""
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    same = same_bytes = 0
    different, missing = [], []
    for number in range(count):
        name = file_name(number)
        if name not in found:
            missing.append(name)
            continue
        found.remove(name)
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).digest() == hashlib.sha256((source / name).read_bytes()).digest():
            same += 1
            same_bytes += len(content)
        else:
            different.append(name)
    return Comparison(same, same_bytes, tuple(different), tuple(missing), tuple(sorted(found)))
