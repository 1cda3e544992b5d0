"""Celery's own worker settings and options under our pool: each is known to have an effect, or is reported."""

from __future__ import annotations

from typing import Any

import click
import pytest
from celery import Celery
from celery.app.defaults import DEFAULTS
from celery.bin.worker import worker

import asyncworker
from asyncworker.errors import SettingsError
from asyncworker.worker.celery_settings import FLAGS, SETTINGS, check_flags, ignored_settings


def test_every_worker_and_task_setting_of_celery_is_in_the_table() -> None:
    assert {name for name in DEFAULTS if name.startswith(("worker_", "task_"))} == SETTINGS.keys()


def test_every_option_of_celerys_worker_command_is_in_the_table() -> None:
    assert {parameter.name for parameter in worker.params} == FLAGS.keys()


IGNORED: dict[str, Any] = {
    "worker_max_tasks_per_child": 100,
    "worker_max_memory_per_child": 100_000,
    "worker_proc_alive_timeout": 60,
    "worker_pool_putlocks": False,
    "worker_pool_restarts": True,
    "worker_lost_wait": 3,
}


@pytest.mark.parametrize("name", IGNORED)
@pytest.mark.parametrize("namespace", [None, "CELERY"])
@pytest.mark.promise("settings-without-effect-are-named")
def test_one_without_an_effect_is_reported_with_what_to_use(name: str, namespace: str | None) -> None:
    app = asyncworker.install(Celery("mine", set_as_current=False))
    key = f"CELERY_{name.upper()}" if namespace else name
    app.config_from_object({key: IGNORED[name], "timezone": "UTC"}, namespace=namespace)
    (line,) = ignored_settings(app.conf, supervised=False)
    assert line.startswith(f"{name} = {IGNORED[name]!r} has no effect with asyncworker's pool: ")


def test_what_has_an_effect_or_was_not_set_is_not() -> None:
    app = asyncworker.install(Celery("mine", set_as_current=False))
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4)
    assert ignored_settings(app.conf, supervised=False) == []
    app.conf.update(IGNORED)
    names = {line.partition(" ")[0] for line in ignored_settings(app.conf, supervised=True)}
    assert names == IGNORED.keys() - {"worker_max_tasks_per_child", "worker_max_memory_per_child"}


@pytest.mark.parametrize("name", ["max_tasks_per_child", "max_memory_per_child"])
def test_options_that_replace_a_process_need_processes(name: str) -> None:
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} needs --processes"):
        check_flags({name: 5}, is_ours=True)
    check_flags({name: 5, "processes": 2}, is_ours=True)
    check_flags({name: 5}, is_ours=False)


def test_processes_is_for_our_pool() -> None:
    with pytest.raises(SettingsError, match="--processes is for asyncworker's own pool"):
        check_flags({"processes": 2}, is_ours=False)


@pytest.mark.parametrize(("given", "refused"), [([], False), (["-P", "prefork"], True)])
@pytest.mark.promise("prefork-by-name-is-refused")
def test_prefork_by_name_is_refused_as_it_would_not_be_prefork(given: list[str], refused: bool) -> None:
    @click.command()
    @click.option("-P", "--pool", default="prefork")
    def command(pool: str) -> None:
        check_flags({"pool": pool}, is_ours=True)

    if not refused:
        command.main(given, standalone_mode=False)
        return
    with pytest.raises(SettingsError, match="say -P processes"):
        command.main(given, standalone_mode=False)
