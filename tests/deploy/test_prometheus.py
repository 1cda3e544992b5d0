"""Prometheus' configuration and alerts, the mapping from statsd, Grafana's dashboard."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from asyncworker.metrics.names import full_names
from asyncworker.settings import load_settings
from tests.deploy.mapping import MAPPING, mapping, prometheus_names
from tests.deploy.tools import DEPLOY, loaded, run

NAMES = set(prometheus_names().values())
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
    assert used
    assert used <= NAMES


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


def test_the_mapping_is_that_of_the_metrics() -> None:
    assert MAPPING.read_text() == mapping(), "run: python -m tests.deploy.mapping"


@pytest.mark.parametrize("name", full_names())
def test_what_is_sent_to_statsd_becomes_what_is_asked_for(name: str) -> None:
    """As the exporter does it: of the mappings whose parts match, ``$1`` is what the first asterisk took."""
    worker = loaded("compose.yaml")["services"]["worker"]
    prefix = load_settings(worker["environment"]).statsd_prefix.replace("{node}", "celery_host")
    labels = full_names()[name].labels
    parts = [*prefix.split("."), *name.split("."), *(f"a-{label}" for label in labels)]
    found = [
        each
        for each in loaded("statsd/mapping.yaml")["mappings"]
        if len(each["match"].split(".")) == len(parts) and all(map(fnmatchcase, parts, each["match"].split(".")))
    ]
    assert [each["name"] for each in found] == [prometheus_names()[name]]
    (match,) = found
    taken = [part for part, pattern in zip(parts, match["match"].split("."), strict=True) if pattern == "*"]
    given = {label: taken[int(value[1:]) - 1] for label, value in match["labels"].items()}
    assert given == {"worker": "celery_host"} | {label: f"a-{label}" for label in labels}
