"""Settings from the configuration of an app, however and whenever it is given; our defaults below it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery

import asyncworker
from asyncworker.errors import SettingsError
from asyncworker.limits.cluster import limits_url
from asyncworker.settings import load_settings
from asyncworker.worker.defaults import hide_secrets


def made(**options: Any) -> Any:
    return asyncworker.install(Celery("mine", set_as_current=False, **options))


def broker_of(app: Any) -> tuple[str, str]:
    """Where the app sends to and receives from."""
    write, read = app.connection_for_write(), app.connection_for_read()
    assert (write.hostname, write.virtual_host) == (read.hostname, read.virtual_host)
    return write.hostname, write.virtual_host


def module(**names: Any) -> ModuleType:
    found = ModuleType("conf")
    vars(found).update(names, asyncworker_helper=load_settings)
    return found


def in_django(app: Any) -> None:
    settings = module(CELERY_ASYNCWORKER_CONCURRENCY=20, CELERY_TIMEZONE="UTC", INSTALLED_APPS=[])
    app.config_from_object(settings, namespace="CELERY")


def in_another_namespace(app: Any) -> None:
    app.config_from_object({"shop_asyncworker_concurrency": 20}, namespace="shop")


def in_our_own_namespace(app: Any) -> None:
    app.config_from_object(
        {"ASYNCWORKER_ASYNCWORKER_CONCURRENCY": 20, "ASYNCWORKER_TASK_ROUTES": {}}, namespace="ASYNCWORKER"
    )


def by_attribute(app: Any) -> None:
    app.conf.asyncworker_concurrency = 20


def by_attribute_once_it_was_read(app: Any) -> None:
    assert app.conf.worker_concurrency == 1000
    app.conf.asyncworker_concurrency = 20


def by_an_object_once_it_was_read(app: Any) -> None:
    assert app.conf.worker_concurrency == 1000
    in_django(app)


def in_capitals_in_django(app: Any) -> None:
    app.config_from_object(module(ASYNCWORKER_CONCURRENCY=20), namespace="CELERY")


GIVEN: list[Callable[[Any], Any]] = [
    in_django,
    in_another_namespace,
    in_our_own_namespace,
    by_attribute,
    by_attribute_once_it_was_read,
    by_an_object_once_it_was_read,
    in_capitals_in_django,
    lambda app: app.conf.update(asyncworker_concurrency=20),
    lambda app: app.conf.update({"asyncworker_concurrency": "20"}),
    lambda app: app.config_from_object({"asyncworker_concurrency": 20}),
    lambda app: app.config_from_object(SimpleNamespace(asyncworker_concurrency=20)),
    lambda app: app.config_from_object(module(asyncworker_concurrency=20)),
    lambda app: app.config_from_object({"ASYNCWORKER_CONCURRENCY": 20, "CELERY_TIMEZONE": "UTC"}),
    lambda app: app.add_defaults({"asyncworker_concurrency": 20}),
]


@pytest.mark.parametrize("give", GIVEN)
def test_a_setting_in_the_configuration_counts(give: Callable[[Any], Any]) -> None:
    app = made()
    give(app)
    assert app.conf.worker_concurrency == 20
    assert load_settings(conf=app.conf).concurrency == 20
    assert app.conf.worker_pool == "asyncworker.worker.pool:AsyncPool"


@pytest.mark.parametrize("give", GIVEN)
def test_one_that_is_given_before_counts_too(give: Callable[[Any], Any]) -> None:
    app: Any = Celery("mine", set_as_current=False)
    app.add_defaults({"worker_concurrency": 1000})
    give(app)
    assert load_settings(conf=asyncworker.install(app).conf).concurrency == 20


@pytest.mark.promise("environment-wins")
def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCWORKER_CONCURRENCY", "7")
    app = made()
    app.conf.asyncworker_concurrency = 20
    assert app.conf.worker_concurrency == 7


@pytest.mark.parametrize(
    ("key", "namespace", "meant"),
    [
        ("CELERY_ASYNCWORKER_CONCURENCY", "CELERY", "CELERY_ASYNCWORKER_CONCURRENCY"),
        ("shop_asyncworker_stor_url", "shop", "shop_asyncworker_store_url"),
        ("asyncworker_sync_thread", None, "asyncworker_sync_threads"),
        ("ASYNCWORKER_LEASE", "CELERY", "ASYNCWORKER_LEASE_S"),
    ],
)
@pytest.mark.promise("misspelt-setting-is-refused")
def test_a_misspelt_key_fails_and_the_nearest_is_told(key: str, namespace: str | None, meant: str) -> None:
    app = made()
    app.config_from_object({key: 20}, namespace=namespace)
    with pytest.raises(SettingsError, match=rf"^{key}: no such setting; did you mean {meant}\?"):
        load_settings(conf=app.conf)
    with pytest.raises(SettingsError):
        app.conf.broker_read_url  # noqa: B018  (a client that sends)


# -- what the app itself has set -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "namespace"),
    [
        ({"worker_concurrency": 5, "worker_pool": "solo", "worker_prefetch_multiplier": 3}, None),
        ({"CELERYD_CONCURRENCY": 5, "CELERYD_POOL": "solo", "CELERYD_PREFETCH_MULTIPLIER": 3}, None),
        (
            {"CELERY_WORKER_CONCURRENCY": 5, "CELERY_WORKER_POOL": "solo", "CELERY_WORKER_PREFETCH_MULTIPLIER": 3},
            "CELERY",
        ),
    ],
)
def test_the_apps_own_configuration_keeps_the_last_word(conf: dict[str, Any], namespace: str | None) -> None:
    app = made()
    app.config_from_object(conf, namespace=namespace)
    found = (app.conf.worker_concurrency, app.conf.worker_pool, app.conf.worker_prefetch_multiplier)
    assert found == (5, "solo", 3)


# -- broker, results, modules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["", "CELERY_"])
def test_broker_and_results_are_read_from_it(namespace: str) -> None:
    app = made(broker="redis://own/1", backend="redis://own/2")
    keys = {"ASYNCWORKER_BROKER_URL": "redis://ours/3", "ASYNCWORKER_RESULT_URL": "redis://ours/4"}
    own = {"BROKER_URL": "redis://own/5"} if namespace else {}
    app.config_from_object({f"{namespace}{key}": url for key, url in (keys | own).items()}, namespace=namespace or None)
    assert broker_of(app) == ("ours", "3")
    assert (app.conf.broker_url, app.conf.result_backend) == ("redis://ours/3", "redis://ours/4")


def test_they_are_read_late() -> None:
    app = made()
    assert app.conf.broker_read_url is None
    app.conf.asyncworker_broker_url = "redis://ours/3"
    assert broker_of(app) == ("ours", "3")
    assert app.conf.result_backend == "redis://ours/3"
    assert app.conf.broker_transport_options["socket_keepalive"] is True


def test_celerys_own_variable_wins_over_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://environment/1")
    app = made()
    app.conf.asyncworker_broker_url = "redis://ours/3"
    assert broker_of(app) == ("environment", "1")


def test_an_app_with_its_own_broker_and_no_result_backend_stays_without_results() -> None:
    assert made(broker="redis://own/1").conf.result_backend is None


def test_modules_to_import_are_those_of_the_app_and_ours() -> None:
    app = made()
    app.conf.asyncworker_include = ["json", "csv"]
    assert app.conf.include == ["json", "csv"]


@pytest.mark.parametrize("namespace", ["", "CELERY_"])
def test_no_password_of_ours_is_shown_where_celery_shows_a_configuration(namespace: str) -> None:
    app = made()
    urls = {
        "STORE_URL": "postgresql+asyncpg://u:s3cret@h/d",
        "RESULT_URL": "redis://:s3cret@h/1",
        "BROKER_URL": "redis://:s3cret@h/0",
        "LIMITS_URL": "redis://:s3cret@h/2",
        "PAYLOAD_URL": "s3://k:s3cret@bucket/x",
    }
    keys = {f"{namespace}ASYNCWORKER_{name}": url for name, url in urls.items()}
    app.config_from_object(keys, namespace=namespace or None)
    app.conf.asyncworker_limits_url = urls["LIMITS_URL"]
    before = load_settings(conf=app.conf)
    hide_secrets(app.conf)
    assert "s3cret" not in app.bugreport() + str(app.conf.table()) + app.conf.humanize()
    assert load_settings(conf=app.conf) == before
    assert before.store_url == urls["STORE_URL"]
    app.conf.asyncworker_store_url = "sqlite+aiosqlite:////x"
    if not namespace:
        assert load_settings(conf=app.conf).store_url == "sqlite+aiosqlite:////x"


def test_limits_of_a_client_are_where_its_workers_keep_them() -> None:
    app = made()
    app.conf.asyncworker_limits_url = "redis://limits/1"
    assert limits_url() == "redis://limits/1"
    app.conf.asyncworker_limits_url = ""
    app.conf.broker_url = "redis://own/2"
    assert limits_url() == "redis://own/2"
