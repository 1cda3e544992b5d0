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
import yaml
from click.testing import CliRunner

from asyncworker.cli import main
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.settings import load_settings
from tests.deploy.mapping import prometheus_names
from tests.deploy.tools import chart, run
from tests.integration import tasks
from tests.servers.ports import free_port
from tests.servers.worker import Worker

SCALED = {"scaling": {"enabled": True}, "queues": ["celery", "slow"]}
ALL: dict[str, Any] = {
    "imagePullSecrets": [{"name": "pull"}],
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "envFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "keys", "secret": {"secretName": "ssh", "defaultMode": 0o400}}],
    "extraVolumeMounts": [{"name": "keys", "mountPath": "/etc/ssh-keys", "readOnly": True}],
    "initContainers": [{"name": "wait", "image": "busybox:1"}],
    "extraContainers": [{"name": "proxy", "image": "proxy:1"}],
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:1"}, "name": "mine", "automountToken": True},
    "labels": {"team": "shop"},
    "annotations": {"owner": "shop"},
    "podLabels": {"sidecar": "no"},
    "podSecurityContext": {"fsGroup": 5},
    "securityContext": {"readOnlyRootFilesystem": False},
    "priorityClassName": "high",
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "extraPodSpec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["files"]}], "enableServiceLinks": True},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "processes": 2,
    "scaling": {"enabled": True, "redis": {"authenticationRef": "redis"}, "prometheus": {"selector": 'namespace="x"'}},
}
RABBITMQ = SCALED | {"scaling": {"enabled": True, "broker": "rabbitmq", "rabbitmq": {"vhost": "shop"}}}
KEDA = json.loads((Path(__file__).parent / "keda_scaledobject.schema.json").read_text())


@pytest.mark.parametrize("values", [{}, SCALED, ALL, RABBITMQ], ids=["default", "scaled", "all", "rabbitmq"])
def test_each_object_is_what_kubernetes_and_keda_know(values: dict[str, Any]) -> None:
    rendered = chart(values)
    assert rendered["findings"] == []
    assert rendered["error"] == ""
    objects = dict(rendered["objects"])
    scaled = objects.pop("ScaledObject", None)
    assert (objects.pop("PodMonitor", None) is not None) == ("podMonitor" in values)
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


def test_what_is_given_for_pods_reaches_them() -> None:
    rendered = chart(ALL)
    pod, container = pod_of(rendered)
    assert ALL["extraVolumes"][0] in pod["volumes"] and ALL["extraVolumeMounts"][0] in container["volumeMounts"]
    assert container["envFrom"] == ALL["envFrom"]
    assert pod["initContainers"] == ALL["initContainers"] and pod["containers"][1:] == ALL["extraContainers"]
    assert pod["priorityClassName"] == "high"
    assert pod["topologySpreadConstraints"] == ALL["topologySpreadConstraints"]
    assert pod["hostAliases"] == ALL["extraPodSpec"]["hostAliases"] and pod["enableServiceLinks"]
    assert (pod["securityContext"]["fsGroup"], pod["securityContext"]["runAsNonRoot"]) == (5, True)
    rights = container["securityContext"]
    assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (False, False)
    account = rendered["objects"]["ServiceAccount"]
    assert pod["serviceAccountName"] == account["metadata"]["name"] == "mine"
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:1", "owner": "shop"}
    for each in rendered["objects"].values():
        assert each["metadata"]["labels"]["team"] == "shop"
        assert each["metadata"]["annotations"]["owner"] == "shop"
    template = rendered["objects"]["Deployment"]["spec"]["template"]["metadata"]
    assert (template["labels"]["sidecar"], template["annotations"]["a"]) == ("no", "b")
    # Services of the namespace become no settings unless somebody wants it.
    assert pod_of(chart())[0]["enableServiceLinks"] is False


def test_a_service_account_of_ones_own_is_used_and_not_made() -> None:
    rendered = chart({"serviceAccount": {"create": False, "name": "theirs"}})
    assert "ServiceAccount" not in rendered["objects"]
    assert pod_of(rendered)[0]["serviceAccountName"] == "theirs"


def test_prometheus_finds_the_pods() -> None:
    rendered = chart()
    _pod, container = pod_of(rendered)
    annotations = rendered["objects"]["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert int(annotations["prometheus.io/port"]) == container["ports"][0]["containerPort"]
    rendered = chart(ALL)
    _pod, container = pod_of(rendered)
    monitor = rendered["objects"]["PodMonitor"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    ends = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    assert ends == [port["name"] for port in container["ports"]] and len(ends) == 2
    template = rendered["objects"]["Deployment"]["spec"]["template"]["metadata"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["labels"].items()
    assert "prometheus.io/scrape" not in template["annotations"]  # once only


def test_scaling_counts_the_tasks_of_this_release_alone_and_nothing_where_there_is_no_data(tmp_path: Path) -> None:
    triggers = chart(SCALED)["objects"]["ScaledObject"]["spec"]["triggers"]
    (query,) = [each["metadata"]["query"] for each in triggers if each["type"] == "prometheus"]

    def series(namespace: str, pod: str, value: str) -> list[dict[str, str]]:
        names = ("asyncworker_executor_running_tasks", "asyncworker_executor_queued_tasks")
        return [{"series": f'{name}{{namespace="{namespace}",pod="{pod}"}}', "values": value} for name in names]

    ours = [*series("shops", "shop-asyncworker-7d9c-x2z", "3x9"), *series("shops", "shop-asyncworker-7d9c-abc", "2x9")]
    others = [
        *series("other", "shop-asyncworker-7d9c-x2z", "100x9"),
        *series("shops", "shop-asyncworker-two-7d9c-x2z", "100x9"),
        *series("shops", "new-shop-asyncworker-7d9c-x2z", "100x9"),
    ]
    expected = [(ours + others, 10), (others, 0), ([], 0)]
    tests = [
        {
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [{"expr": query, "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": value}]}],
        }
        for given, value in expected
    ]
    (tmp_path / "query_test.yaml").write_text(yaml.safe_dump({"tests": tests}))
    done = run("promtool", "test", "rules", tmp_path / "query_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_scaling_reads_queues_of_rabbitmq_and_of_a_redis_behind_tls_and_has_a_number_for_outages() -> None:
    spec = chart(RABBITMQ)["objects"]["ScaledObject"]["spec"]
    _pod, container = pod_of(chart(RABBITMQ))
    triggers = [each for each in spec["triggers"] if each["type"] == "rabbitmq"]
    assert [each["metadata"]["queueName"] for each in triggers] == ["celery", "slow"]
    for each in triggers:
        assert each["metadata"]["hostFromEnv"] in {variable["name"] for variable in container["env"]}
        assert each["metadata"]["vhostName"] == "shop"
    assert spec["scaleTargetRef"]["envSourceContainerName"] == container["name"]
    assert sorted(spec["advanced"]["scalingModifiers"]["formula"].split(" + ")) == [
        "backlog_0",
        "backlog_1",
        "in_flight",
    ]
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]
    tls = {"scaling": {"enabled": True, "redis": {"tls": True}, "rabbitmq": {"authenticationRef": "host"}}}
    spec = chart(tls)["objects"]["ScaledObject"]["spec"]
    assert spec["triggers"][0]["metadata"]["enableTLS"] == "true"
    assert all(each["metricType"] == "AverageValue" for each in spec["triggers"])  # the only one with a fallback


def test_a_pod_shows_the_metrics_of_each_of_its_processes() -> None:
    _pod, container = pod_of(chart({"processes": 3}))
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    first = load_settings(given).prometheus_port
    assert [port["containerPort"] for port in container["ports"]] == [first, first + 1, first + 2]


def pod_of(rendered: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    pod = rendered["objects"]["Deployment"]["spec"]["template"]["spec"]
    (container,) = [each for each in pod["containers"] if each["name"] == "worker"]
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
    assert node.stop() == 0
    assert CliRunner().invoke(main, ready[1:], env=env).exit_code == 1
