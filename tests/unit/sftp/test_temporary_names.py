"""Names of files that are not whole yet: always recognized, never mistaken for a user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.temporary_names import (
    Aside,
    Part,
    Temporary,
    aside_name,
    claimed_part_name,
    goal_digest,
    is_ours,
    local_temporary_name,
    owner_has_ended,
    parse,
    part_name,
    temporary_name,
)

NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


@given(NAMES)
def test_every_name_leads_to_recognizable_ones(name: bytes) -> None:
    temporary, part = temporary_name(name), part_name(name, b"/from/here", 123, -7)
    assert isinstance(parse(os.fsdecode(temporary)), Temporary)
    assert parse(os.fsdecode(part)) == parse(os.fsdecode(part_name(name, b"/from/here", 123, -7)))
    claimed, aside = claimed_part_name(name, b"/from/here", 123, -7), aside_name(name)
    mine = parse(os.fsdecode(claimed))
    assert isinstance(mine, Part) and mine.owner is not None
    assert replace(mine, owner=None) == parse(os.fsdecode(part))
    assert not owner_has_ended(mine.owner)
    assert parse(os.fsdecode(aside)) == Aside(goal_digest(name), mine.owner)
    here = os.fsencode(local_temporary_name(os.fsdecode(name)))
    assert here.split(b".awt1")[0] == temporary.split(b".awt1")[0]
    for made in (temporary, here, part, claimed, aside):
        assert is_ours(os.fsdecode(made))
        assert len(made) <= 143
        assert b"/" not in made


def test_two_tries_of_one_file_have_two_names() -> None:
    assert len({temporary_name(b"a") for _ in range(1000)}) == 1000


def test_a_part_says_what_it_becomes_and_where_it_comes_from() -> None:
    part = parse(os.fsdecode(part_name(b"a.bin", b"/here/a.bin", 5_000_000, 1_700_000_000)))
    assert isinstance(part, Part)
    assert (part.goal, part.size, part.mtime) == (goal_digest(b"a.bin"), 5_000_000, 1_700_000_000)
    elsewhere = parse(os.fsdecode(part_name(b"a.bin", b"/there/a.bin", 5_000_000, 1_700_000_000)))
    assert isinstance(elsewhere, Part)
    assert elsewhere.origin != part.origin


def test_long_names_are_cut_between_characters() -> None:
    made = temporary_name(("x" + "ä" * 100).encode())
    assert made.decode().startswith(".xää")


@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map(lambda text: f".{text}.part")))
def test_other_names_are_not_ours(name: str) -> None:
    assert not is_ours(name)


@pytest.mark.parametrize("make", [temporary_name, aside_name, lambda name: part_name(name, b"", 5, 6)])
def test_one_changed_character_and_it_is_a_users_file(make: Callable[[bytes], bytes]) -> None:
    text = make(b"a.bin").decode()
    begin = text.index(".aw")
    for place in range(begin, len(text)):
        other = "0" if text[place] != "0" else "1"
        assert not is_ours(text[:place] + other + text[place + 1 :]), place
    assert not is_ours(text[1:])
    assert not is_ours(text + "x")
    assert not is_ours(text.removesuffix(".part"))


def test_a_process_that_lives_owns_its_names_and_one_that_has_ended_does_not() -> None:
    mine = parse(temporary_name(b"a").decode())
    assert isinstance(mine, Temporary)
    assert not owner_has_ended(mine)
    code = "from asyncworker.sftp.temporary_names import temporary_name as t; print(t(b'a').decode()); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        theirs = parse(process.stdout.readline().decode().strip())
        assert isinstance(theirs, Temporary)
        assert not owner_has_ended(theirs)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner_has_ended(theirs)  # a zombie: it has ended, and its parent has not asked yet
        process.wait()
        assert owner_has_ended(theirs)


def test_a_pid_that_another_process_has_now_is_not_its_former_owner() -> None:
    mine = parse(temporary_name(b"a").decode())
    assert isinstance(mine, Temporary)
    assert owner_has_ended(Temporary(mine.machine, mine.pid, mine.start - 1, mine.created))


def test_nothing_is_known_of_the_processes_of_another_machine() -> None:
    mine = parse(temporary_name(b"a").decode())
    assert isinstance(mine, Temporary)
    assert not owner_has_ended(Temporary(mine.machine ^ 1, 2**22 + 1, 1, 1))


def test_a_child_by_fork_makes_names_of_its_own() -> None:
    code = (
        "import os; from asyncworker.sftp.temporary_names import parse, temporary_name as t\n"
        "pid = os.fork()\n"
        "made = parse(t(b'a').decode())\n"
        "assert made.pid == os.getpid(), made\n"
        "pid or os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
