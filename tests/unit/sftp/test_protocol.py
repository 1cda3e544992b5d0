"""The state machine against a server that keeps the protocol, and against one that does not."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SFTPConnectionLost, SFTPProtocolError
from asyncworker.sftp.packets import (
    Attributes,
    FileSystem,
    Limits,
    Name,
    OpenFlag,
    Status,
    attributes_bytes,
    open_tail,
)
from asyncworker.sftp.protocol import SFTPProtocol
from tests.servers import sftp_wire as wire

OFFERS_LIMITS = wire.version(3, (b"limits@openssh.com", b"1"), (b"other@example.com", b"x"))


class Owner:
    """Keeps what happens to its requests."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.errors: list[Exception] = []

    def answered(self, answer: Any) -> None:
        self.events.append(answer)

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


class Machine(SFTPProtocol):
    """A protocol that has agreed with its server, and knows how often it was woken."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.ready = 0
        self.woken = 0
        super().__init__(self._count_ready, self._count_woken, host="host:22")
        self.start()
        if greeting:
            self.take_outgoing()
            self.feed(greeting)

    def _count_ready(self) -> None:
        self.ready += 1

    def _count_woken(self) -> None:
        self.woken += 1


def ask_everything(machine: SFTPProtocol, owner: Owner) -> None:
    """Requests 0 to 6."""
    machine.open(b"/a", owner.answered, owner)
    machine.read(b"h", 0, 100, owner.answered, owner)
    machine.fstat(b"h", owner.answered, owner)
    machine.close(b"h", owner.answered, owner)
    machine.opendir(b"/", owner.answered, owner)
    machine.readdir(b"d", owner.answered, owner)
    machine.stat(b"/gone", owner.answered, owner)


ANSWERS = [
    wire.handle(0, b"h"),
    wire.data(1, b"content" * 14),
    wire.attrs(2, 98, 0o100644, 1_700_000_000),
    wire.status(3, 0),
    wire.handle(4, b"d"),
    wire.names(5, (b"x", wire.attributes(3, 0o100600, 7)), (b"y", wire.attributes())),
    wire.status(6, 2, b"No such file"),
]
EVENTS = [
    b"h",
    b"content" * 14,
    Attributes(98, 0o100644, 1_700_000_000, 1),
    Status(0),
    b"d",
    (Name(b"x", Attributes(3, 0o100600, 7, 1)), Name(b"y", Attributes())),
    Status(2, "No such file"),
]


def test_requests_are_the_bytes_of_the_draft() -> None:
    machine = Machine()
    owner = Owner()
    assert machine.take_outgoing() == b"\0\0\0\5\1\0\0\0\3"
    machine.open(b"/a", owner.answered, owner)
    machine.read(b"h", 2**33, 32768, owner.answered, owner)
    machine.close(b"h", owner.answered, owner)
    assert machine.take_outgoing() == (
        wire.packet(3, struct.pack(">I", 0) + wire.string(b"/a") + struct.pack(">II", 1, 0))
        + wire.packet(5, struct.pack(">I", 1) + wire.string(b"h") + struct.pack(">QI", 2**33, 32768))
        + wire.packet(4, struct.pack(">I", 2) + wire.string(b"h"))
    )


def test_wakes_once_for_all_that_is_asked_before_it_is_sent() -> None:
    machine = Machine(wire.version())
    owner = Owner()
    before = machine.woken
    ask_everything(machine, owner)
    assert machine.woken == before + 1
    machine.take_outgoing()
    machine.close(b"h", owner.answered, owner)
    assert machine.woken == before + 2


def test_is_ready_without_limits() -> None:
    machine = Machine(wire.version())
    assert machine.ready == 1
    assert machine.limits == Limits()
    assert machine.read_bytes == 32768


def test_asks_for_limits_where_they_are_offered() -> None:
    machine = Machine(OFFERS_LIMITS)
    assert machine.ready == 0
    machine.feed(wire.limits(0, 262144, 261120, 261120, 1019))
    assert machine.ready == 1
    assert machine.limits == Limits(262144, 261120, 261120, 1019)
    assert machine.read_bytes == 261120


def test_goes_on_where_limits_are_offered_and_refused() -> None:
    machine = Machine(OFFERS_LIMITS)
    machine.feed(wire.status(0, 8))
    assert machine.ready == 1
    assert machine.read_bytes == 32768


OFFERS_STATVFS = wire.version(3, (b"statvfs@openssh.com", b"2"))


def test_the_space_on_a_disk() -> None:
    machine = Machine(OFFERS_STATVFS)
    owner = Owner()
    assert machine.tells_space
    machine.statvfs(b"/a", owner.answered, owner)
    text = wire.string(b"statvfs@openssh.com") + wire.string(b"/a")
    assert machine.take_outgoing() == wire.packet(200, struct.pack(">I", 0) + text)
    # Blocks of 4096 bytes for reading, of 1024 for counting.
    machine.feed(wire.statvfs(0, 4096, 1024, 100, 50, 40, 7, 6, 5, 99, 1, 255))
    assert owner.events == [FileSystem(102_400, 51_200, 40_960, 7, 6, 99, read_only=True, name_bytes=255)]
    machine.statvfs(b"/gone", owner.answered, owner)
    machine.feed(wire.status(1, 2))
    assert owner.events[1:] == [Status(2)]


def test_space_that_is_not_told() -> None:
    assert not Machine(wire.version(3, (b"statvfs@openssh.com", b"1"))).tells_space
    assert not Machine(OFFERS_LIMITS).tells_space


def test_a_description_of_a_disk_that_is_cut_off_ends_the_session() -> None:
    machine = Machine(OFFERS_STATVFS)
    owner = Owner()
    machine.statvfs(b"/a", owner.answered, owner)
    machine.stat(b"/a", owner.answered, owner)
    with pytest.raises(SFTPProtocolError, match="cut off"):
        machine.feed(wire.statvfs(0, 4096, 1024, 100))
    assert len(owner.errors) == 2
    assert machine.ended is not None
    assert owner.events == []


def test_limits_that_are_cut_off_end_the_session() -> None:
    machine = Machine(OFFERS_LIMITS)
    with pytest.raises(SFTPProtocolError, match="cut off"):
        machine.feed(wire.statvfs(0, 4096))
    assert machine.ready == 0


@given(cuts=st.lists(st.integers(0, 10_000)), order=st.permutations(range(len(ANSWERS))))
def test_any_cut_and_any_order_give_the_same_events(cuts: list[int], order: list[int]) -> None:
    machine = Machine(wire.version())
    owner = Owner()
    ask_everything(machine, owner)
    stream = b"".join(ANSWERS[number] for number in order)
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for begin, end in itertools.pairwise(places):
        machine.feed(stream[begin:end])
    assert owner.events == [EVENTS[number] for number in order]
    assert owner.errors == []
    assert machine.pending == 0


def test_byte_by_byte_gives_the_same_events() -> None:
    machine = Machine()
    owner = Owner()
    for byte in wire.version():
        machine.feed(bytes([byte]))
    ask_everything(machine, owner)
    for byte in b"".join(ANSWERS):
        machine.feed(bytes([byte]))
    assert owner.events == EVENTS


@given(garbage=st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_ends_the_session_or_waits_but_never_loses_a_request(garbage: list[bytes]) -> None:
    machine = Machine(wire.version())
    owner = Owner()
    ask_everything(machine, owner)
    ended = False
    for piece in garbage:
        try:
            machine.feed(piece)
        except SFTPProtocolError:
            ended = True
            break
    assert ended == (machine.ended is not None)
    # Each request has its answer, or its error, or still waits: never two of them, never none.
    assert len(owner.events) + len(owner.errors) + machine.pending == 7
    if ended:
        assert machine.pending == 0
        machine.feed(b"".join(ANSWERS))  # nothing that comes later counts
        assert len(owner.events) + len(owner.errors) == 7


@given(number=st.integers(0, len(ANSWERS) - 1), place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_wrong_byte_never_hangs_or_raises_anything_else(number: int, place: int, value: int) -> None:
    machine = Machine(wire.version())
    owner = Owner()
    ask_everything(machine, owner)
    answer = bytearray(ANSWERS[number])
    answer[place % len(answer)] = value
    try:
        machine.feed(bytes(answer))
    except SFTPProtocolError as error:
        assert error.host == "host:22"
        assert machine.pending == 0
    assert len(owner.events) + len(owner.errors) + machine.pending == 7


VIOLATIONS = {
    "an id that was never asked": wire.status(99, 0),
    "a second answer": wire.handle(0, b"h") + wire.handle(0, b"h"),
    "a packet that is too long": struct.pack(">IB", 2**31, 103),
    "a packet that is too short": struct.pack(">IB", 4, 103),
    "data where a handle is due": wire.data(0, b"x"),
    "a handle where data is due": wire.handle(1, b"x"),
    "more data than asked for": wire.data(1, b"x" * 101),
    "no data at all": wire.data(1, b""),
    "success in place of a handle": wire.status(0, 0),
    "a handle longer than 256 bytes": wire.handle(0, b"x" * 257),
    "a string longer than its packet": wire.packet(102, struct.pack(">II", 0, 500) + b"abc"),
    "bytes after the data": wire.packet(103, struct.pack(">I", 1) + wire.string(b"abc") + b"more"),
    "attributes cut off": wire.packet(105, struct.pack(">III", 2, 1, 5)),
    "a billion names": wire.packet(104, struct.pack(">II", 5, 10**9)),
    "a billion extended attributes": wire.packet(105, struct.pack(">III", 2, 0x80000000, 10**9)),
    "a status without a code": wire.packet(101, struct.pack(">I", 3)),
    "a second version": wire.version(),
    "a client's packet": wire.packet(5, struct.pack(">I", 1) + wire.string(b"h")),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_violation_ends_the_session_and_fails_all_that_is_pending(what: str) -> None:
    machine = Machine(wire.version())
    owner = Owner()
    ask_everything(machine, owner)
    with pytest.raises(SFTPProtocolError, match="not SFTP version 3"):
        machine.feed(VIOLATIONS[what])
    assert len(owner.events) + len(owner.errors) == 7
    assert all(isinstance(error, SFTPProtocolError) for error in owner.errors)
    assert machine.pending == 0
    assert machine.take_outgoing() == b""
    with pytest.raises(SFTPConnectionLost):
        machine.open(b"/a", owner.answered, owner)


def test_another_version_is_refused() -> None:
    with pytest.raises(SFTPProtocolError, match="version 2"):
        Machine(wire.version(2))


def test_a_login_script_that_prints_is_named_as_the_likely_cause() -> None:
    with pytest.raises(SFTPProtocolError, match="start-up script"):
        Machine(b"Welcome to the machine\n")


def test_what_is_not_whole_is_kept_within_bounds() -> None:
    machine = Machine(wire.version())
    owner = Owner()
    machine.read(b"h", 0, 262144, owner.answered, owner)
    machine.feed(struct.pack(">IBII", 256 * 1024, 103, 0, 256 * 1024 - 9))
    for _ in range(1000):
        try:
            machine.feed(b"x" * 4096)
        except SFTPProtocolError:
            break
    else:
        pytest.fail("four megabytes were taken for one packet")


def test_a_callback_that_raises_fails_its_own_request_only() -> None:
    machine = Machine(wire.version())
    faulty, sound = Owner(), Owner()

    def broken(answer: Any) -> None:
        raise ValueError("a bug")

    machine.open(b"/a", broken, faulty)
    machine.open(b"/b", sound.answered, sound)
    machine.feed(wire.handle(0, b"1") + wire.handle(1, b"2"))
    assert [str(error) for error in faulty.errors] == ["a bug"]
    assert sound.events == [b"2"]
    assert machine.ended is None


def test_an_owner_that_raises_does_not_keep_others_from_hearing() -> None:
    class Broken(Owner):
        def fail(self, error: Exception) -> None:
            raise ValueError("a bug")

    machine = Machine(wire.version())
    broken, sound = Broken(), Owner()
    machine.open(b"/a", broken.answered, broken)
    machine.open(b"/b", sound.answered, sound)
    lost = SFTPConnectionLost("gone")
    machine.end(lost)
    assert sound.errors == [lost]


def test_a_callback_may_end_the_session() -> None:
    machine = Machine(wire.version())
    owner = Owner()
    machine.open(b"/a", lambda _: machine.end(SFTPConnectionLost("enough")), owner)
    machine.open(b"/b", owner.answered, owner)
    machine.feed(wire.handle(0, b"1") + wire.handle(1, b"2"))
    assert owner.events == []
    assert len(owner.errors) == 1


def test_ids_are_not_given_twice_after_they_wrap() -> None:
    machine = Machine(wire.version())
    owner = Owner()
    machine.open(b"/a", owner.answered, owner)  # id 0 stays under way
    machine._next_id = 0xFFFFFFFF
    machine.open(b"/b", owner.answered, owner)
    machine.open(b"/c", owner.answered, owner)
    assert machine.pending == 3
    machine.feed(wire.handle(0, b"a") + wire.handle(0xFFFFFFFF, b"b") + wire.handle(1, b"c"))
    assert owner.events == [b"a", b"b", b"c"]


# -- what changes something --------------------------------------------------------------------------------------------

WRITES = wire.version(3, (b"posix-rename@openssh.com", b"1"), (b"fsync@openssh.com", b"1"))


def test_requests_that_change_something_are_the_bytes_of_the_draft() -> None:
    machine, owner = Machine(WRITES), Owner()
    machine.open(b"/a", owner.answered, owner, open_tail(OpenFlag.WRITE | OpenFlag.CREATE, 0o640))
    machine.write(b"h", 2**33, memoryview(b"data"), owner.answered, owner)
    machine.set_attributes(b"h", attributes_bytes(mtime=7, size=3), owner.answered, owner)
    machine.remove(b"/a", owner.answered, owner)
    machine.mkdir(b"/d", None, owner.answered, owner)
    machine.rmdir(b"/d", owner.answered, owner)
    machine.rename(b"/a", b"/b", owner.answered, owner)
    machine.rename_plain(b"/a", b"/b", owner.answered, owner)
    machine.fsync(b"h", owner.answered, owner)
    ids = [struct.pack(">I", number) for number in range(9)]
    names = wire.string(b"/a") + wire.string(b"/b")
    assert machine.take_outgoing() == b"".join(
        (
            wire.packet(3, ids[0] + wire.string(b"/a") + struct.pack(">III", 0x2 | 0x8, 4, 0o640)),
            wire.packet(6, ids[1] + wire.string(b"h") + struct.pack(">Q", 2**33) + wire.string(b"data")),
            wire.packet(10, ids[2] + wire.string(b"h") + struct.pack(">IQII", 1 | 8, 3, 7, 7)),
            wire.packet(13, ids[3] + wire.string(b"/a")),
            wire.packet(14, ids[4] + wire.string(b"/d") + struct.pack(">I", 0)),
            wire.packet(15, ids[5] + wire.string(b"/d")),
            wire.packet(200, ids[6] + wire.string(b"posix-rename@openssh.com") + names),
            wire.packet(18, ids[7] + wire.string(b"/a") + wire.string(b"/b")),
            wire.packet(200, ids[8] + wire.string(b"fsync@openssh.com") + wire.string(b"h")),
        )
    )


@pytest.mark.parametrize("greeting", [wire.version(), wire.version(3, (b"posix-rename@openssh.com", b"2"))])
def test_extensions_that_are_not_offered_are_not_used(greeting: bytes) -> None:
    machine, owner = Machine(greeting), Owner()
    assert not machine.renames_over
    assert not machine.flushes
    machine.rename(b"/a", b"/b", owner.answered, owner)
    assert machine.take_outgoing()[4] == 18


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_every_change_is_answered_or_failed_whatever_the_server_sends(kinds: list[int], data: st.DataObject) -> None:
    machine, owner = Machine(WRITES), Owner()
    for kind in kinds:
        asks = (
            lambda: machine.write(b"h", 0, b"x" * 100, owner.answered, owner),
            lambda: machine.rename(b"/a", b"/b", owner.answered, owner),
            lambda: machine.fsync(b"h", owner.answered, owner),
            lambda: machine.mkdir(b"/d", 0o755, owner.answered, owner),
        )
        asks[kind]()
    machine.take_outgoing()
    for number in data.draw(st.permutations(range(len(kinds)))):
        answer = data.draw(st.sampled_from([wire.status(number, 0), wire.status(number, 4), wire.handle(number, b"h")]))
        try:
            machine.feed(answer)
        except SFTPProtocolError:
            break
    machine.end(SFTPConnectionLost("over"))
    assert len(owner.events) + len(owner.errors) == len(kinds)
    assert all(isinstance(event, Status) for event in owner.events)
