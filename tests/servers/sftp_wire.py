"""A server's packets, written from the draft a second time and independently of the code under test."""

from __future__ import annotations

import struct


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", 1 + len(body), kind) + body


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def version(number: int = 3, *extensions: tuple[bytes, bytes]) -> bytes:
    return packet(2, struct.pack(">I", number) + b"".join(string(name) + string(data) for name, data in extensions))


def status(request_id: int, code: int, message: bytes = b"") -> bytes:
    return packet(101, struct.pack(">II", request_id, code) + string(message) + string(b"en"))


def handle(request_id: int, text: bytes) -> bytes:
    return packet(102, struct.pack(">I", request_id) + string(text))


def data(request_id: int, content: bytes) -> bytes:
    return packet(103, struct.pack(">I", request_id) + string(content))


def attributes(size: int | None = None, mode: int | None = None, mtime: int | None = None) -> bytes:
    flags = (size is not None) | (mode is not None) << 2 | (mtime is not None) << 3
    body = struct.pack(">I", flags)
    if size is not None:
        body += struct.pack(">Q", size)
    if mode is not None:
        body += struct.pack(">I", mode)
    if mtime is not None:
        body += struct.pack(">II", 1, mtime)
    return body


def attrs(request_id: int, size: int | None = None, mode: int | None = None, mtime: int | None = None) -> bytes:
    return packet(105, struct.pack(">I", request_id) + attributes(size, mode, mtime))


def names(request_id: int, *entries: tuple[bytes, bytes]) -> bytes:
    return long_names(request_id, *((name, b"-rw-r--r-- " + name, attributes) for name, attributes in entries))


def long_names(request_id: int, *entries: tuple[bytes, bytes, bytes]) -> bytes:
    body = b"".join(string(name) + string(long_name) + attributes for name, long_name, attributes in entries)
    return packet(104, struct.pack(">II", request_id, len(entries)) + body)


def limits(request_id: int, packet_bytes: int, read_bytes: int, write_bytes: int, handles: int) -> bytes:
    return packet(201, struct.pack(">IQQQQ", request_id, packet_bytes, read_bytes, write_bytes, handles))


def statvfs(request_id: int, *fields: int) -> bytes:
    return packet(201, struct.pack(f">I{len(fields)}Q", request_id, *fields))


def digest(request_id: int, name: bytes, value: bytes) -> bytes:
    return packet(201, struct.pack(">I", request_id) + string(b"check-file") + string(name) + value)
