import inspect
import json
import pickle
import re

import pytest

from asyncworker import errors

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
OURS = {name: value for name, value in CLASSES.items() if value.__module__ == errors.__name__}


def drawn_tree() -> dict[str, str | None]:
    """Read the docstring's tree: each class with the one it hangs from."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)", line)
        if found is None:
            continue
        depth = len(found["branch"])
        while path and path[-1][0] >= depth:
            path.pop()
        parents[found["name"]] = path[-1][1] if path else None
        path.append((depth, found["name"]))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    classes = {
        name: next((base.__name__ for base in value.__bases__ if base.__name__ in OURS), None)
        for name, value in OURS.items()
    }
    assert drawn_tree() == classes


def test_all_names_every_error() -> None:
    assert sorted(errors.__all__) == sorted(OURS)


@pytest.mark.parametrize("error", OURS.values(), ids=str)
def test_every_error_has_one_root(error: type[Exception]) -> None:
    assert issubclass(error, errors.AsyncWorkerError)


def test_an_sftp_error_carries_where_it_happened() -> None:
    error = errors.SFTPFileNotFound("no such file", host="h:22", path="/in/a.xml")
    assert (str(error), error.host, error.path) == ("no such file", "h:22", "/in/a.xml")
    assert isinstance(pickle.loads(pickle.dumps(error)), errors.SFTPFileNotFound)


def test_item_errors_survive_a_trip_through_text() -> None:
    group = errors.ItemErrors("2 of 3 items failed", [ValueError("a"), KeyError("b")])
    assert pickle.loads(pickle.dumps(group)).exceptions[0].args == ("a",)
    rebuilt = errors.ItemErrors(*json.loads(json.dumps(group.args)))
    assert rebuilt.message == group.message
    assert [str(each) for each in rebuilt.exceptions] == ["ValueError: a", "KeyError: 'b'"]
    assert rebuilt.args == group.args
    assert isinstance(rebuilt.exceptions[0], errors.ItemError)
    assert errors.ItemErrors("none are known", []).exceptions


def test_item_errors_are_taken_apart_as_a_group_is() -> None:
    group = errors.ItemErrors("2 of 3 items failed", [ValueError("a"), KeyError("b")])
    matched, rest = group.split(ValueError)
    assert (type(matched), type(rest)) == (errors.ItemErrors, errors.ItemErrors)
