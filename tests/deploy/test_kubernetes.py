"""The Helm chart: linted, rendered, each object checked, and the pod's own command run."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.settings import load_settings
from tests.deploy.mapping import prometheus_names
from tests.deploy.tools import chart
from tests.integration import tasks
from tests.servers.ports import free_port
from tests.servers.worker import Worker

SCALED = {"scaling": {"enabled": True}, "queues": ["celery", "slow"]}
ALL = {
    "imagePullSecrets": [{"name": "pull"}],
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "scaling": {"enabled": True, "redis": {"authenticationRef": "redis"}, "prometheus": {"selector": 'namespace="x"'}},
}
KEDA = json.loads((Path(__file__).parent / "keda_scaledobject.schema.json").read_text())


@pytest.mark.parametrize("values", [{}, SCALED, ALL], ids=["default", "scaled", "all"])
def test_each_object_is_what_kubernetes_and_keda_know(values: dict[str, Any]) -> None:
    rendered = chart(values)
    assert rendered["findings"] == []
    assert rendered["error"] == ""
    objects = dict(rendered["objects"])
    scaled = objects.pop("ScaledObject", None)
    assert (scaled is not None) == bool(values)
    assert set(objects) == {"Deployment", "ServiceAccount", "PodDisruptionBudget"}
    for each in objects.values():
        for version in ("1.25", "1.34"):
            kubernetes_validate.validate(each, version, strict=True)
    if scaled is not None:
        jsonschema.validate(scaled, KEDA)


def test_the_validators_see_what_is_wrong() -> None:
    objects = chart(SCALED)["objects"]
    deployment = copy.deepcopy(objects["Deployment"])
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.34", strict=True)
    scaled = copy.deepcopy(objects["ScaledObject"])
    scaled["spec"]["triggers"][0]["metadata"]["listLength"] = 800
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled, KEDA)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scaling": {"enabled": True, "minReplicas": 0}}, "minReplicas"),
        ({"scaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}, "minReplicas is above"),
        ({"include": []}, "include"),
        ({"drainTimeout": 10}, "drainTimeout"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    refused = chart(values)
    assert message in str(refused["findings"]) + refused["error"]


def test_scaling_counts_what_waits_and_what_is_in_flight() -> None:
    spec = chart(SCALED)["objects"]["ScaledObject"]["spec"]
    triggers = {each["name"]: each for each in spec["triggers"]}
    assert {each["metadata"].get("listName") for each in triggers.values()} == {"celery", "slow", None}
    query = triggers["in_flight"]["metadata"]["query"]
    assert set(re.findall(r"asyncworker_\w+", query)) <= set(prometheus_names().values())
    assert "asyncworker_executor_running_tasks" in query
    # One number of all of them: the length of a list alone decides nothing.
    formula = spec["advanced"]["scalingModifiers"]["formula"]
    assert sorted(formula.split(" + ")) == sorted(triggers)
    assert spec["minReplicaCount"] >= 1


@pytest.mark.parametrize("drain_s", [10, 300, 7200])
def test_a_pod_has_more_time_than_its_worker_needs_to_drain(drain_s: int) -> None:
    pod, container = pod_of(chart({"drainTimeoutSeconds": drain_s}))
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert load_settings(given).drain_timeout_s == drain_s
    assert pod["terminationGracePeriodSeconds"] == drain_s + 30


def test_a_pod_shows_the_metrics_of_each_of_its_processes() -> None:
    _pod, container = pod_of(chart({"processes": 3}))
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    first = load_settings(given).prometheus_port
    assert [port["containerPort"] for port in container["ports"]] == [first, first + 1, first + 2]


def pod_of(rendered: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    pod = rendered["objects"]["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def test_the_pods_command_runs_and_its_probes_tell(
    worker: Callable[..., Worker], valkey: EmbeddedServer, worker_env: dict[str, str], tmp_path: Path
) -> None:
    """The worker as the pod starts it; only the addresses are those of the test."""
    _pod, container = pod_of(chart({"include": [tasks.__name__]}))
    from_secret = {"broker-url": valkey.broker_url, "result-url": valkey.result_url, "store-url": ""}
    env = worker_env | {
        each["name"]: each["value"] if "value" in each else from_secret[each["valueFrom"]["secretKeyRef"]["key"]]
        for each in container["env"]
    }
    env["ASYNCWORKER_HEALTH_FILE"] = str(tmp_path / "health")
    env |= {"ASYNCWORKER_PROMETHEUS_PORT": str(free_port()), "ASYNCWORKER_PROMETHEUS_ADDRESS": "127.0.0.1"}
    ready, alive = [container[f"{name}Probe"]["exec"]["command"] for name in ("readiness", "liveness")]
    assert container["startupProbe"]["exec"]["command"] == ready
    assert ready[0] == alive[0] == "asyncworker"
    node = worker(None, *container["args"], env=env)
    while not list(tmp_path.glob("health*")):
        assert node.returncode is None, node.log()
        time.sleep(0.02)
    for command in (ready, alive):
        answer = CliRunner().invoke(main, command[1:], env=env)
        assert (answer.exit_code, "is alive" in answer.output) == (0, True), answer.output
    assert node.stop(grace_s=60) == 0
    assert CliRunner().invoke(main, ready[1:], env=env).exit_code == 1
