"""Prometheus' configuration and alerts, the mapping from statsd, Grafana's dashboard."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY, METRICS, loaded, run

NAMES = {name.replace(".", "_") for name in METRICS}
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/asyncworker.json").read_text())


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_configuration_and_the_rules_are_valid() -> None:
    done = run("promtool", "check", "config", "prometheus/prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    done = run("promtool", "test", "rules", "prometheus/alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("alerts.yaml", "alerts_test.yaml"):
        text = (DEPLOY / "prometheus" / name).read_text()
        (tmp_path / name).write_text(text.replace("for: 15m", "for: 25m"))
    assert run("promtool", "test", "rules", tmp_path / "alerts_test.yaml").returncode != 0


def test_every_alert_has_a_test() -> None:
    alerts = {rule["alert"] for group in loaded("prometheus/alerts.yaml")["groups"] for rule in group["rules"]}
    fired = {
        each["alertname"]
        for test in loaded("prometheus/alerts_test.yaml")["tests"]
        for each in test["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert fired == alerts


def test_alerts_and_dashboard_use_metrics_that_are_exported() -> None:
    text = (DEPLOY / "prometheus/alerts.yaml").read_text() + "\n".join(queries())
    used = set(re.findall(r"\basyncworker_\w+", text))
    assert used <= NAMES
    assert used == NAMES, "a metric that nobody looks at"


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    def check(expressions: list[str]) -> int:
        rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions)]
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        return run("promtool", "check", "rules", tmp_path / "rules.yaml").returncode

    assert check(queries()) == 0
    assert check(["sum(asyncworker_executor_open_slots"]) != 0


def test_the_dashboard_is_whole() -> None:
    sources = loaded("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"] for source in sources}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, f"{panel['title']} lies on another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
    (provider,) = loaded("grafana/provisioning/dashboards/asyncworker.yaml")["providers"]
    mounts = dict(each.split(":")[:2] for each in loaded("compose.yaml")["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_statsd_names_become_the_names_that_are_asked_for(metric: str) -> None:
    """As the exporter does it: the first mapping whose parts match, ``$1`` is what the first asterisk took."""
    mapping: dict[str, Any] = loaded("statsd/mapping.yaml")
    parts = metric.split(".")
    for each in mapping["mappings"]:
        wanted = each["match"].split(".")
        if len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted)):
            taken = [part for part, pattern in zip(parts, wanted, strict=True) if pattern == "*"]
            name = each["name"]
            for number, part in enumerate(taken, 1):
                name = name.replace(f"${{{number}}}", part)
            assert name in NAMES
            return
    pytest.fail(f"nothing matches {metric}")
