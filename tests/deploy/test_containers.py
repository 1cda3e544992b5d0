"""The Dockerfile and the compose file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from asyncworker.settings import load_settings
from tests.deploy.tools import DEPLOY, ROOT, loaded, run, seconds

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
