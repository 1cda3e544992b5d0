"""Values of the worker command's options: each has an effect, or is refused by the option's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from asyncworker.errors import SettingsError
from asyncworker.worker.option_values import CheckingOption, check_time_limits, check_values

REFUSED = {
    "concurrency": ["0", "-1", 0],
    "prefetch_multiplier": ["0", "-3"],
    "heartbeat_interval": ["0", "-1"],
    "max_tasks_per_child": ["0", "-1"],
    "max_memory_per_child": ["0", "-1"],
    "time_limit": ["nan", "-1", "inf", "-inf", float("nan")],
    "soft_time_limit": ["nan", "-0.1", "inf", "1e400"],
    "autoscale": ["0", "-1,3", "many", "1,2,3", ""],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_number_without_a_meaning_is_refused_by_its_options_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} is {value}: expected "):
        check_values({name: value})


def test_what_has_an_effect_is_taken(tmp_path: Path) -> None:
    check_values({"concurrency": "1", "time_limit": "0", "soft_time_limit": "0.5", "autoscale": "10,0"})
    check_values({"concurrency": None, "time_limit": None, "pidfile": None, "logfile": ""})
    check_values({"pidfile": str(tmp_path / "pid"), "logfile": str(tmp_path / "%n%I.log"), "hostname": "w1@h"})
    (tmp_path / "w1").mkdir()
    check_values({"statedb": str(tmp_path / "%n" / "state"), "hostname": "w1@h"})


@pytest.mark.parametrize("name", ["pidfile", "logfile", "statedb"])
def test_a_file_in_a_missing_folder_or_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^--{name} is .*: there is no folder"):
        check_values({name: str(tmp_path / "none" / "file")})
    with pytest.raises(SettingsError, match=f"^--{name} is .*: that is a folder"):
        check_values({name: str(tmp_path)})


@pytest.mark.parametrize("name", ["task_time_limit", "task_soft_time_limit"])
def test_a_time_limit_of_the_configuration_is_checked(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is -3: expected"):
        check_time_limits({name: -3})
    check_time_limits({name: 3, "other": -1})


def test_the_option_sees_what_was_typed_before_a_callback_replaces_it() -> None:
    command = click.Command(
        "worker",
        params=[
            click.Option(["-c", "--concurrency"], type=int, callback=lambda _ctx, _option, value: value or 1000),
            CheckingOption(["--supervised"], type=int, hidden=True, is_eager=True),
        ],
        callback=lambda **_: None,
    )
    with pytest.raises(SystemExit, match="asyncworker: --concurrency is 0: expected 1 or more"):
        command.main(["-c", "0"], standalone_mode=False)
    command.main(["-c", "2"], standalone_mode=False)
