"""The file from which a supervisor completes its workers' environment."""

from pathlib import Path

import pytest

from asyncworker.errors import SettingsError
from asyncworker.worker.environment_file import WorkerEnvironment, read_environment_file


def test_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "worker.env"
    path.write_text("# of mine\n\n; neither\nA=1\nexport B = two words \nC='q=1'\nD=\"\"\nE=\n")
    assert read_environment_file(path) == {"A": "1", "B": "two words", "C": "q=1", "D": "", "E": ""}


@pytest.mark.parametrize("line", ["SECRET", "=SECRET", "1A=SECRET", "A B=SECRET"])
def test_another_line_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "worker.env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(SettingsError, match="line 2 is not NAME=VALUE") as refused:
        read_environment_file(path)
    assert "SECRET" not in str(refused.value)


def test_it_is_read_each_time_and_a_name_that_it_has_no_longer_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.env"
    path.write_text("SHOP_A=1\nSHOP_B=1\n")
    monkeypatch.setenv("SHOP_A", "1")  # as a service manager does with the same file
    monkeypatch.setenv("SHOP_OWN", "own")
    environment = WorkerEnvironment(str(path))
    assert environment()["SHOP_A"] == "1"
    path.write_text("SHOP_B=2\n")
    after = environment()
    assert "SHOP_A" not in after
    assert (after["SHOP_B"], after["SHOP_OWN"]) == ("2", "own")
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        environment()
