"""The Dockerfile and the compose file."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from kombu import Connection, Queue
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from asyncworker.settings import load_settings
from tests.deploy.constraints import CONSTRAINTS, requirements
from tests.deploy.tools import DEPLOY, ROOT, loaded, run, seconds
from tests.servers.rabbitmq import running_rabbitmq

COMPOSE = "compose.yaml"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def lint_compose(path: Path | str) -> str:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    assert lint_compose(COMPOSE) == ""
    (tmp_path / "wrong.yaml").write_text((DEPLOY / COMPOSE).read_text().replace("stop_grace_period", "stop_grace"))
    assert "stop_grace" in lint_compose(tmp_path / "wrong.yaml")


def test_the_worker_of_the_compose_file_has_settings_that_exist_and_time_to_drain() -> None:
    worker = loaded(COMPOSE)["services"]["worker"]
    settings = load_settings(worker["environment"])
    assert seconds(worker["stop_grace_period"]) > settings.drain_timeout_s
    assert settings.include == ("shop",)
    assert (DEPLOY / "example" / "shop.py").is_file()


def test_what_the_compose_file_mounts_and_names_is_there() -> None:
    services = loaded(COMPOSE)["services"]
    hosts = set(services)
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
        for value in service.get("environment", {}).values():
            named = re.findall(r"(?:@|redis://)([a-z-]+)[:/]", value)
            assert set(named) <= hosts
    assert (
        set(re.findall(r"http://([a-z-]+):", str(loaded("grafana/provisioning/datasources/prometheus.yaml")))) <= hosts
    )


@pytest.mark.parametrize("name", ["valkey", "postgres", "statsd-exporter", "prometheus", "grafana"])
def test_images_are_pinned_and_name_no_registry(name: str) -> None:
    image = loaded(COMPOSE)["services"][name]["image"]
    repository, _, tag = image.partition(":")
    assert tag not in ("", "latest")
    assert "." not in repository


def test_the_dockerfile_is_linted(tmp_path: Path) -> None:
    done = run("hadolint", "--strict-labels", "--failure-threshold", "style", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd / && sudo true\n")
    assert run("hadolint", tmp_path / "Dockerfile").returncode != 0


def test_the_image_installs_the_versions_that_are_tested() -> None:
    text = CONSTRAINTS.read_text()
    pinned = {
        each.name: each for each in map(Requirement, (line for line in text.splitlines() if not line.startswith("#")))
    }
    for each in requirements():
        if each.marker is None or each.marker.evaluate():
            (specifier,) = pinned[canonicalize_name(each.name)].specifier
            assert specifier.operator == "==" and each.specifier.contains(specifier.version), each
    # Each version is one, and what is needed is whole: celery brings kombu, and that amqp.
    assert {"kombu", "amqp", "greenlet"} <= pinned.keys()
    assert "--constraint constraints.txt" in DOCKERFILE


@pytest.mark.parametrize("name", [COMPOSE, "compose.rabbitmq.yaml"])
def test_every_service_has_a_limit_of_its_memory(name: str) -> None:
    for title, service in loaded(name)["services"].items():
        assert "mem_limit" in service or (name != COMPOSE and title in loaded(COMPOSE)["services"]), title


def test_the_workers_restart_before_their_container_has_too_little_memory() -> None:
    worker = loaded(COMPOSE)["services"]["worker"]
    given = dict(itertools.pairwise(worker["command"]))
    assert int(given["--processes"]) * int(given["--max-memory-mb"]) < int(worker["mem_limit"].removesuffix("g")) * 1024


def test_the_rabbitmq_of_the_compose_file_waits_for_long_tasks_and_drops_none(tmp_path: Path) -> None:
    assert lint_compose("compose.rabbitmq.yaml") == ""
    service = loaded("compose.rabbitmq.yaml")["services"]["rabbitmq"]
    mounts = dict(each.split(":")[:2] for each in service["volumes"])
    assert mounts["./rabbitmq/rabbitmq.conf"].startswith("/etc/rabbitmq/conf.d/")
    assert mounts["./rabbitmq/policy.sh"] in service["command"][-1]
    conf = (DEPLOY / "rabbitmq" / "rabbitmq.conf").read_text()
    with running_rabbitmq(tmp_path / "rabbitmq", conf=conf) as server:
        server.run_script(DEPLOY / "rabbitmq" / "policy.sh")
        assert int(server.ctl("eval", "element(2, application:get_env(rabbit, consumer_timeout)).")) >= 86_400_000
        (policy,) = json.loads(server.ctl("list_policies", "--formatter", "json"))
        limit = json.loads(policy["definition"])["delivery-limit"]
        # Else the broker drops a task before asyncworker has given it up and kept it.
        assert limit > load_settings({}).max_deliveries
        assert re.fullmatch(policy["pattern"], "celery")
        queue = Queue("celery", queue_arguments={"x-queue-type": "quorum"})
        with Connection(server.broker_url("/")) as connection, connection.channel() as channel:
            queue(channel).declare()


def test_the_image_is_not_run_by_root_and_gets_its_signals_itself() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\d+)$", last, re.M)
    assert int(user) > 0
    for instruction in ("ENTRYPOINT", "CMD"):
        assert re.search(rf'^{instruction} \["', last, re.M), f"{instruction} is not in exec form"
    assert "asyncworker" in re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", last, re.M)[0]


def test_the_images_settings_exist_and_what_it_copies_is_not_ignored() -> None:
    names = re.findall(r"\b(ASYNCWORKER_\w+)=(\S+)", DOCKERFILE)
    assert load_settings(dict(names)).health_file == "/run/asyncworker/health"
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M):
        for source in shlex.split(line):
            name = source.removeprefix("./")
            assert (ROOT / name).exists(), name
            assert name in kept
