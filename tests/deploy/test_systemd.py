"""The systemd units."""

from __future__ import annotations

import configparser
import shlex
import sys
from pathlib import Path

from asyncworker.settings import load_settings
from tests.deploy.tools import DEPLOY, run

UNITS = DEPLOY / "systemd"
INSTALLED = "/opt/asyncworker/venv/bin"


class Unit(configparser.RawConfigParser):
    """A unit file, with keys that may come several times."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False)
        self.optionxform = str  # type: ignore[assignment]
        self.read_string(path.read_text())
        self.environment = dict(
            assignment.split("=", 1)
            for line in path.read_text().splitlines()
            if line.startswith("Environment=")
            for assignment in shlex.split(line.removeprefix("Environment="))
        )


def verify(folder: Path) -> str:
    """What systemd says of the units; the programs are those of this environment."""
    done = run("systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", *sorted(folder.iterdir()))
    return "" if done.returncode == 0 else done.stderr or "failed"


def installed(folder: Path) -> Path:
    folder.mkdir()
    for path in UNITS.iterdir():
        if path.suffix in (".service", ".timer"):
            text = path.read_text().replace(INSTALLED, str(Path(sys.executable).parent))
            (folder / path.name).write_text(text)
    return folder


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    folder = installed(tmp_path / "units")
    assert verify(folder) == ""
    broken = folder / "asyncworker.service"
    broken.write_text(broken.read_text().replace("TimeoutStopSec=330", "TimeoutStopSec=330 parsecs"))
    assert "Failed to parse time value" in verify(folder)


def test_there_is_more_time_to_stop_than_the_worker_needs_to_drain() -> None:
    unit = Unit(UNITS / "asyncworker.service")
    lines = (UNITS / "worker.env").read_text().splitlines()
    settings = load_settings(unit.environment | dict(line.split("=", 1) for line in lines if not line.startswith("#")))
    assert unit.getint("Service", "TimeoutStopSec") == settings.drain_timeout_s + 30
    assert unit["Service"]["KillMode"] == "mixed"
    assert "--processes" in unit["Service"]["ExecStart"]


def test_the_workers_have_a_limit_of_their_memory_and_write_no_file_for_others() -> None:
    service = Unit(UNITS / "asyncworker.service")["Service"]
    words = shlex.split(service["ExecStart"])
    processes, each_mb = (int(words[words.index(name) + 1]) for name in ("--processes", "--max-memory-mb"))
    assert processes * each_mb < int(service["MemoryHigh"].removesuffix("M")) < 1024 * int(service["MemoryMax"][:-1])
    assert service["UMask"] == "0077"


def test_the_health_check_looks_where_the_workers_write() -> None:
    worker, health = Unit(UNITS / "asyncworker.service"), Unit(UNITS / "asyncworker-health.service")
    assert worker.environment["ASYNCWORKER_HEALTH_FILE"] == health.environment["ASYNCWORKER_HEALTH_FILE"]
    assert f"/run/{worker['Service']['RuntimeDirectory']}/" in health.environment["ASYNCWORKER_HEALTH_FILE"]
    # A file of the administrator's, which may name another health file, counts for both.
    assert health["Service"]["EnvironmentFile"] == worker["Service"]["EnvironmentFile"]
    assert health["Service"]["User"] == worker["Service"]["User"]
