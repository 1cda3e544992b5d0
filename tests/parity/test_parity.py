"""Every scenario gives under asyncworker what it gives under stock prefork, line by line, or differs as documented."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.parity.compare import Verdict, verdicts
from tests.parity.meant import MEANT, table
from tests.parity.runner import run_all_sides
from tests.parity.side import SCENARIOS

for _theme in ("canvas", "tasks", "acks", "control"):
    importlib.import_module(f"tests.parity.scenarios_{_theme}")

README = Path(__file__).parents[2] / "README.md"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Verdict]:
    """All verdicts, of one worker a side."""
    seen = run_all_sides(tmp_path_factory.mktemp("parity"))
    return {(verdict.scenario, verdict.side): verdict for verdict in verdicts(seen)}


@pytest.mark.parametrize("name", [*SCENARIOS, "the broker at the end"])
@pytest.mark.promise("celerys-tracer-runs-every-task")
def test_async_tasks(found: dict[tuple[str, str], Verdict], name: str) -> None:
    verdict = found[name, "async"]
    assert verdict.lines
    assert not verdict.unexplained, "\n".join(verdict.unexplained)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if not scenario.stops])
@pytest.mark.promise("celerys-tracer-runs-every-task")
def test_plain_tasks_on_threads(found: dict[tuple[str, str], Verdict], name: str) -> None:
    verdict = found[name, "threads"]
    assert not verdict.unexplained, "\n".join(verdict.unexplained)


@pytest.mark.promise("differences-are-all-named")
def test_every_difference_that_is_meant_is_still_there(found: dict[tuple[str, str], Verdict]) -> None:
    seen = {rule for verdict in found.values() for rule in verdict.meant}
    assert seen == {rule for rule in MEANT if rule.scenario}


@pytest.mark.promise("differences-are-all-named")
def test_the_readme_tells_every_difference() -> None:
    assert table() in README.read_text()
