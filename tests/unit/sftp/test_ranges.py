"""Parts of a file: each is given out once, and how far the whole is follows from how long the file is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.ranges import Ranges


@given(
    st.integers(0, 50), st.integers(0, 300), st.integers(1, 60), st.integers(1, 20), st.randoms(use_true_random=False)
)
def test_every_byte_once_and_never_further_than_the_span(
    begin: int, more: int, span: int, length: int, chance: object
) -> None:
    size = begin + more
    ranges = Ranges(begin, size, span)
    there = [True] * begin + [False] * more
    taken: dict[int, int] = {}
    end = begin  # of the file as a server has it: parts that were only begun lengthen it too
    while taken or ranges.left:
        if (part := ranges.take(length)) is not None:
            assert not any(first <= part[0] < first + size_ for first, size_ in taken.items())
            taken[part[0]] = part[1]
            end = max(end, sum(part))
        assert all(there[: ranges.whole])
        assert all(there[: max(begin, end - span)])
        assert taken  # else nobody could ever go on
        chosen = chance.choice(sorted(taken))  # type: ignore[attr-defined]
        count = taken.pop(chosen)
        if chance.random() < 0.3:  # type: ignore[attr-defined]
            ranges.give_back(chosen)
        else:
            ranges.finish(chosen)
            there[chosen : chosen + count] = [True] * count
    assert there == [True] * size
    assert ranges.left == 0
    assert ranges.whole == size


def test_what_nobody_has() -> None:
    ranges = Ranges(10, 40, 20)
    assert ranges.take(15) == (10, 15)
    assert ranges.take(15) == (25, 5)  # the span ends there
    assert ranges.take(15) is None
    assert ranges.left == 10
    ranges.give_back(10)
    assert ranges.left == 25
    assert ranges.take(3) == (10, 15)  # whole, as it was taken before
    ranges.finish(10)
    assert ranges.take(15) == (30, 10)
    assert ranges.whole == 25
