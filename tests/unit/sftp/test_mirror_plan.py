"""What a mirror deletes, and what it must not."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from asyncworker.sftp.filters import Filters, rule
from asyncworker.sftp.mirror_plan import Inventory, MirrorPlan
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.temporary_names import temporary_name

FILE, FOLDER, LINK = (Attributes(1, kind | 0o644, 1) for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))


def plan_of(
    source: dict[str, Attributes],
    there: dict[str, bool],
    *rules: str,
    delete_excluded: bool = False,
    replace: bool = False,
) -> MirrorPlan:
    """Show a plan both sides, as walks of them would; ``there`` says what is a folder."""
    inventory = Inventory()
    for path, attributes in source.items():
        inventory.add(path, attributes)
    filters = Filters(rule(one) for one in rules)
    plan = MirrorPlan(inventory, filters, delete_excluded=delete_excluded, replace=replace)
    entered = {""}
    for path, is_dir in sorted(there.items()):
        if path.rpartition("/")[0] in entered:
            plan.see(path, is_dir)
            if is_dir and plan.enters(path):
                entered.add(path)
    return plan


def steps(plan: MirrorPlan) -> list[str]:
    return [path for path, _ in plan.steps()]


def test_what_only_the_destination_has_goes_from_the_deepest_up() -> None:
    there = {"a": False, "b": False, "old": True, "old/deep": True, "old/deep/c": False, "old/d": False, "s": True}
    found = steps(plan_of({"a": FILE, "s": FOLDER}, there))
    assert sorted(found[:3]) == ["b", "old/d", "old/deep/c"]
    assert found[3:] == ["old/deep", "old"]


def test_what_a_filter_leaves_out_is_protected_and_so_are_the_folders_above_it() -> None:
    there = {"a.tmp": False, "old": True, "old/x.tmp": False, "old/y": False, "cache": True, "cache/z": False}
    assert steps(plan_of({"s": FILE}, there, "- *.tmp", "- cache/")) == ["old/y"]
    assert steps(plan_of({"s": FILE}, there, "- *.tmp", "- cache/", delete_excluded=True)) == [
        "a.tmp",
        "cache/z",
        "old/x.tmp",
        "old/y",
        "cache",
        "old",
    ]


def test_what_is_excluded_at_the_source_goes_only_if_that_is_asked_for() -> None:
    assert steps(plan_of({"a.tmp": FILE}, {"a.tmp": False}, "- *.tmp")) == []
    assert steps(plan_of({"a.tmp": FILE}, {"a.tmp": False}, "- *.tmp", delete_excluded=True)) == ["a.tmp"]


def test_files_of_transfers_under_way_stay() -> None:
    own = temporary_name(b"a").decode()
    assert steps(plan_of({"s": FILE}, {own: False, "old": True, f"old/{own}": False})) == []


def test_another_kind_gives_way_only_if_that_is_asked_for() -> None:
    source = {"a": FILE, "b": FOLDER, "b/c": FILE, "l": LINK}
    there = {"a": True, "a/x": False, "b": False, "l": True, "l/y": False, "z": False}
    assert steps(plan_of(source, there)) == ["z"]
    plan = plan_of(source, there, replace=True)
    assert [path for path, _ in plan.conflicts()] == ["a/x", "b", "a"]


NAMES = st.sampled_from(["a", "b", "c.tmp"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS), st.sets(PATHS), st.booleans())
def test_nothing_that_the_source_has_or_a_filter_protects_is_deleted(
    source: set[str], there: set[str], delete_excluded: bool
) -> None:
    def tree(paths: set[str]) -> dict[str, bool]:
        folders = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
        return {path: path in folders for path in paths | folders}

    here, others = tree(source), tree(there)
    attributes = {path: FOLDER if is_dir else FILE for path, is_dir in here.items()}
    found = steps(plan_of(attributes, others, "- *.tmp", delete_excluded=delete_excluded))
    assert len(found) == len(set(found))
    assert set(found) <= set(others)
    for path in found:
        excluded = any(name.endswith(".tmp") for name in path.split("/"))
        assert (delete_excluded and excluded) or (path not in here and not excluded)
        if others[path]:  # a folder is empty by then
            below = {other for other in others if other.startswith(f"{path}/")}
            assert below <= set(found[: found.index(path)])
