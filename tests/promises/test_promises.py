"""Each promise of the README has a name and a test, and the page says what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.promises.marks import Mark, StrayMark, marks_below, marks_of
from tests.promises.page import README, ROOT, SECTION, faults, read_promises, table
from tests.promises.recording import read_results

PROMISES = {"kept": "It is kept.", "bounded": "Never more\nthan N at once."}
TEXT = f"# About\n\nIt is kept.\n\n## {SECTION}\n\n- Never more than\n  N at once.\n\n## Else\n\n- No promise.\n"
MARKS = [Mark("kept", "tests/test_it.py::test_it"), Mark("bounded", "tests/test_it.py::test_bound")]

FILE = """
import pytest

@pytest.mark.promise("kept")
@pytest.mark.promise("kept-twice")
def test_one(): ...

@pytest.mark.parametrize("case", [1, pytest.param(2, marks=pytest.mark.promise("kept"))])
async def test_cases(case): ...

class TestMore:
    @pytest.mark.promise("bounded")
    def test_two(self): ...
"""


def test_every_promise_of_the_readme_has_a_name_and_a_test() -> None:
    assert not list(faults(read_promises(), marks_below(ROOT / "tests", ROOT), README.read_text()))


def test_the_command_prints_every_promise_with_its_tests() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tests.promises"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    for mark in marks_below(ROOT / "tests", ROOT):
        assert mark.promise in answer.stdout
        assert mark.test in answer.stdout


def test_a_page_on_which_all_is_kept_has_no_fault() -> None:
    assert not list(faults(PROMISES, MARKS, TEXT))


def test_a_promise_without_a_test_is_named() -> None:
    (fault,) = faults(PROMISES, MARKS[:1], TEXT)
    assert fault.startswith("bounded: no test")
    assert "bounded  none" in table(PROMISES, MARKS[:1], {})


def test_a_marker_that_names_no_promise_is_named_with_its_test() -> None:
    (fault,) = faults(PROMISES, [*MARKS, Mark("kpet", "tests/test_it.py::test_other")], TEXT)
    assert "tests/test_it.py::test_other" in fault
    assert "'kpet'" in fault


def test_a_promise_that_the_readme_does_not_make_is_named() -> None:
    (fault,) = faults(PROMISES, MARKS, TEXT.replace("It is kept.", "It is mostly kept."))
    assert fault.startswith("kept: the README does not say")


def test_what_the_readme_promises_without_a_name_is_shown() -> None:
    more = TEXT.replace("\n## Else", "- A second promise,\n  over two lines.\n\n## Else")
    (fault,) = faults(PROMISES, MARKS, more)
    assert "A second promise, over two lines." in fault


def test_markers_are_found_on_functions_cases_and_methods() -> None:
    assert marks_of(FILE, "tests/test_it.py") == [
        Mark("kept", "tests/test_it.py::test_one"),
        Mark("kept-twice", "tests/test_it.py::test_one"),
        Mark("kept", "tests/test_it.py::test_cases"),
        Mark("bounded", "tests/test_it.py::TestMore::test_two"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.promise("kept")\ndef helper(): ...',
        "@pytest.mark.promise(NAME)\ndef test_it(): ...",
        '@pytest.mark.promise("kept", "bounded")\ndef test_it(): ...',
        'pytestmark = pytest.mark.promise("kept")',
    ],
)
def test_a_marker_that_marks_no_test_by_a_literal_name_is_refused(text: str) -> None:
    with pytest.raises(StrayMark, match=r"tests/test_it\.py:1"):
        marks_of(text, "tests/test_it.py")


def test_a_run_keeps_the_last_result_of_each_marked_test(tmp_path: Path) -> None:
    _run(tmp_path, good="True", set_up="pass")
    first = read_results(tmp_path / ".pytest_cache")
    assert {test: result.outcomes for test, result in first.items()} == {
        "test_it.py::test_cases": {"passed": 2},
        "test_it.py::test_set_up": {"passed": 1},
    }
    _run(tmp_path, "-k", "test_cases", good="case == 1", set_up="pass")
    second = read_results(tmp_path / ".pytest_cache")
    assert second["test_it.py::test_cases"].outcomes == {"passed": 1, "failed": 1}
    assert second["test_it.py::test_set_up"] == first["test_it.py::test_set_up"]
    assert "1 failed, 1 passed" in table({"kept": ""}, [Mark("kept", "test_it.py::test_cases")], second)


def test_a_run_in_several_processes_keeps_them_as_well(tmp_path: Path) -> None:
    _run(tmp_path, "-p", "xdist", "-n", "1", good="case == 1", set_up="pytest.skip('no server')")
    results = read_results(tmp_path / ".pytest_cache")
    assert {test: result.outcomes for test, result in results.items()} == {
        "test_it.py::test_cases": {"passed": 1, "failed": 1},
        "test_it.py::test_set_up": {"skipped": 1},
    }


def _run(folder: Path, *arguments: str, good: str, set_up: str) -> None:
    """Run pytest, in a folder of its own, over two tests that are marked and one that is not."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = promise: a promise\n")
    (folder / "test_it.py").write_text(
        "import pytest\n"
        f"@pytest.fixture\ndef thing():\n    {set_up}\n"
        '@pytest.mark.promise("kept")\n@pytest.mark.parametrize("case", [1, 2])\n'
        f"def test_cases(case):\n    assert {good}\n"
        '@pytest.mark.promise("bounded")\ndef test_set_up(thing): ...\n'
        "def test_not_marked(): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.promises.recording", *arguments]
    answer = subprocess.run(
        [*command, "--rootdir", str(folder), "-c", str(folder / "pytest.ini"), str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # the others take seconds to load
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert answer.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), answer.stdout + answer.stderr
