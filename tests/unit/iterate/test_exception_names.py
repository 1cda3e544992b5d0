"""Names of exception classes out of a message: what is meant by them, and that none makes a module run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from asyncworker.errors import SettingsError
from asyncworker.iterate.exception_names import ExceptionNames, exception_names


class Own(OSError):
    class Inner(ValueError):
        """Below a class."""


def meant(given: object) -> ExceptionNames:
    return ExceptionNames(exception_names(given))


def test_a_class_means_itself_and_what_derives_from_it() -> None:
    assert FileNotFoundError() in meant(OSError)
    assert Own() in meant([KeyError, OSError])
    assert Own.Inner() in meant(Own.Inner)
    assert ValueError() not in meant(Own.Inner)
    assert OSError() not in meant(())


def test_another_name_of_a_class_will_do() -> None:
    wrong = json.decoder.JSONDecodeError("", "", 0)
    assert wrong in meant(json.JSONDecodeError)
    assert wrong in meant("json:JSONDecodeError")


def test_a_class_of_a_function_is_meant_too() -> None:
    class Local(Exception):
        pass

    assert Local() in meant(Local)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module, and a package, that leave a file when they are run."""
    code = f"from pathlib import Path\nPath({str(tmp_path)!r}, 'ran').touch()\n\nclass Error(Exception):\n    pass\n"
    (tmp_path / "a_trap.py").write_text(code)
    (tmp_path / "a_trap_package").mkdir()
    (tmp_path / "a_trap_package" / "__init__.py").write_text(code)
    (tmp_path / "a_trap_package" / "inner.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("a_trap", "a_trap_package", "a_trap_package.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "ran"


@pytest.mark.parametrize("name", ["a_trap:Error", "a_trap_package:Error", "a_trap_package.inner:Error"])
def test_no_name_makes_a_module_run(trap: Path, name: str) -> None:
    names = ExceptionNames([name])
    assert ValueError() not in names
    assert not trap.exists()
    # A task that imports it when it needs it.
    loaded = importlib.import_module(name.partition(":")[0])
    assert loaded.Error() in names


def test_no_name_runs_the_code_with_which_a_module_makes_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(sys.modules[__name__], "__getattr__", asked.append, raising=False)
    with pytest.raises(SettingsError, match="is not an exception class"):
        ExceptionNames([f"{__name__}:NoSuch"])
    assert asked == []


@pytest.mark.parametrize(
    "name",
    ["no_such_module:Error", "no.such:Error", ":Error", "os:system", "os:no_such", "builtins:eval", "builtins:int"],
)
def test_what_names_no_exception_class_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="retry_on or fail_on names"):
        ExceptionNames([name])
