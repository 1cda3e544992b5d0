from pathlib import Path

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from asyncworker import setting_names
from asyncworker.errors import SettingsError
from asyncworker.settings import Settings, load_settings


def test_defaults_need_no_environment() -> None:
    assert load_settings({}, {}) == Settings()


@pytest.mark.promise("environment-wins")
def test_environment_wins_over_configuration_and_that_over_defaults() -> None:
    conf = {"asyncworker_sync_threads": 8, "asyncworker_io_threads": 3, "broker_url": "redis://"}
    settings = load_settings({"ASYNCWORKER_SYNC_THREADS": "4", "HOME": "/x"}, conf)
    assert (settings.sync_threads, settings.io_threads) == (4, 3)


def test_include_is_a_list_separated_by_commas() -> None:
    assert load_settings({"ASYNCWORKER_INCLUDE": " shop.tasks, , bank.tasks"}).include == ("shop.tasks", "bank.tasks")
    assert load_settings({}, {"asyncworker_include": ["a", "b"]}).include == ("a", "b")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ASYNCWORKER_SYNC_THREDS", "ASYNCWORKER_SYNC_THREADS"),
        ("ASYNCWORKER_CONCURENCY", "ASYNCWORKER_CONCURRENCY"),
        ("ASYNCWORKER_BROKER", "ASYNCWORKER_BROKER_URL"),
        ("ASYNCWORKER_STORE_URI", "ASYNCWORKER_STORE_URL"),
        ("ASYNCWORKER_STATSD_HOST", "ASYNCWORKER_STATSD"),
        ("ASYNCWORKER_REDIS_SERVR", "ASYNCWORKER_REDIS_SERVER"),
    ],
)
@pytest.mark.promise("misspelt-setting-is-refused")
def test_a_misspelt_variable_is_refused_and_the_nearest_name_is_told(given: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{given}: no such setting; did you mean {meant}\?$"):
        load_settings({given: "4"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("asyncworker_concurency", "asyncworker_concurrency"),
        ("ASYNCWORKER_STORE_URI", "ASYNCWORKER_STORE_URL"),
        ("asyncworker_broker", "asyncworker_broker_url"),
    ],
)
def test_a_misspelt_key_of_a_configuration_is_refused_too(given: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{given}: no such setting; did you mean {meant}\?$"):
        load_settings({}, {given: "4"})


def test_nobody_else_writes_keys_of_ours_into_a_configuration() -> None:
    with pytest.raises(SettingsError, match=r"^asyncworker_qqq: no such setting; known: .*sync_threads"):
        load_settings({}, {"asyncworker_qqq": 1})


def service_links(service: str) -> dict[str, str]:
    """What Kubernetes puts into the containers beside a Service with a port that has a name."""
    name, at = service.upper().replace("-", "_"), "10.0.0.7"
    links = {f"{name}_SERVICE_HOST": at, f"{name}_SERVICE_PORT": "6379", f"{name}_SERVICE_PORT_HTTP_METRICS": "6379"}
    for protocol in ("TCP", "UDP", "SCTP"):
        url = f"{protocol.lower()}://{at}:6379"
        port = f"{name}_PORT_6379_{protocol}"
        links |= {f"{name}_PORT": url, port: url, f"{port}_PROTO": protocol.lower()}
        links |= {f"{port}_PORT": "6379", f"{port}_ADDR": at}
    return links


@pytest.mark.parametrize(
    "service",
    ["asyncworker", "asyncworker-redis", "asyncworker-prometheus", "asyncworker-statsd", "asyncworker-store-url"],
)
def test_what_kubernetes_injects_for_a_service_is_no_setting(service: str) -> None:
    assert load_settings(service_links(service)) == Settings()


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    env = {"ASYNCWORKER_CONCURRENCY": "", "ASYNCWORKER_BROKER_URL": ""}
    settings = load_settings(env, {"asyncworker_broker_url": "redis://"})
    assert (settings.broker_url, settings.concurrency) == ("redis://", 1000)


def test_a_port_of_ours_is_read_beside_them() -> None:
    links = service_links("asyncworker") | {"ASYNCWORKER_PROMETHEUS_PORT": "9100"}
    assert load_settings(links).prometheus_port == 9100


def test_a_variable_that_is_near_no_setting_is_reported_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    setting_names._reported.clear()
    for _ in range(2):
        assert load_settings({"ASYNCWORKER_IMAGE_VERSION": "1.2"}) == Settings()
    assert [record.getMessage() for record in caplog.records] == ["ASYNCWORKER_IMAGE_VERSION: no such setting; ignored"]


@pytest.mark.parametrize("name", ["ASYNCWORKER_REDIS_SERVER", "ASYNCWORKER_TESTS_REQUIRE_SERVERS"])
def test_names_that_others_read_are_let_through(name: str) -> None:
    assert load_settings({name: "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASYNCWORKER_CONCURRENCY", "many"),
        ("ASYNCWORKER_CONCURRENCY", "0"),
        ("ASYNCWORKER_BLOCKED_AFTER_S", "0"),
        ("ASYNCWORKER_CANCEL_GRACE_S", "-1"),
        ("ASYNCWORKER_CANCEL_GRACE_S", "inf"),
        ("ASYNCWORKER_BLOCKED_AFTER_S", "1e300"),
        ("ASYNCWORKER_LEASE_S", "nan"),
        ("ASYNCWORKER_LEASE_S", "inf"),
        ("ASYNCWORKER_GC_THRESHOLD", "3000000000"),
    ],
)
def test_a_wrong_value_names_itself(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}: expected ")


@given(st.integers(min_value=1, max_value=2**31), st.floats(min_value=0.001, max_value=1e6))
def test_what_is_written_is_read(count: int, seconds: float) -> None:
    settings = load_settings({"ASYNCWORKER_CONCURRENCY": str(count), "ASYNCWORKER_BLOCKED_AFTER_S": repr(seconds)})
    assert (settings.concurrency, settings.blocked_after_s) == (count, seconds)


def test_the_store_is_a_file_in_the_state_folder() -> None:
    assert Settings(state_dir="/somewhere").store_url_or_default() == "sqlite+aiosqlite:////somewhere/store.sqlite"
    assert Settings(store_url="postgresql+asyncpg://h/d").store_url_or_default() == "postgresql+asyncpg://h/d"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_settings({}).concurrency = 3  # type: ignore[misc]


def test_settings_are_shown_without_the_secrets_of_their_urls() -> None:
    urls = {name: f"redis://u:s3cret@{name}/0" for name in Settings.__struct_fields__ if name.endswith("_url")}
    settings = load_settings({f"ASYNCWORKER_{name.upper()}": url for name, url in urls.items()})
    assert "s3cret" not in repr(settings)
    assert all(f"{name}='redis://u:***@{name}/0'" in repr(settings) for name in urls)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {"asyncworker_broker_url": ["redis://:s3cret@a", "redis://:s3cret@b"]})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["ASYNCWORKR_CONCURRENCY", "ASYNC_WORKER_CONCURRENCY", "ASYNCWORKERS_LEASE_S"])
def test_a_misspelt_prefix_is_reported(key: str, caplog: pytest.LogCaptureFixture) -> None:
    reported = setting_names._reported
    reported.discard(key)
    meant = f"ASYNCWORKER_{key.split('_', 2 if key.startswith('ASYNC_') else 1)[-1]}"
    for _ in range(2):
        assert load_settings({key: "5"}) == load_settings({})
    assert [record.getMessage() for record in caplog.records] == [f"{key}: ignored; the setting's name is {meant}"]
    caplog.clear()
    reported.discard(f"CELERY_{key}")
    app = Celery("app", set_as_current=False)
    app.config_from_object({f"CELERY_{key}": 5}, namespace="CELERY")
    assert load_settings({}, app.conf) == load_settings({})
    assert [record.getMessage() for record in caplog.records] == [
        f"CELERY_{key}: ignored; the setting's name is {meant.lower()}"
    ]


def test_other_names_about_workers_are_nobodys_business(caplog: pytest.LogCaptureFixture) -> None:
    load_settings({"ASSISTANT_WORKER_CONCURRENCY": "5", "AS_WORKFLOW": "x", "WORKER_CONCURRENCY": "3"})
    assert not caplog.records


def test_a_path_may_be_a_path() -> None:
    assert load_settings({}, {"asyncworker_state_dir": Path("/somewhere")}).state_dir == "/somewhere"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"ASYNCWORKER_STATE_DIR": "~/state", "ASYNCWORKER_PAYLOAD_URL": "~/large", "ASYNCWORKER_HEALTH_FILE": "~/h"}
    settings = load_settings(given)
    assert (settings.state_dir, settings.payload_url, settings.health_file) == (
        f"{tmp_path}/state",
        f"{tmp_path}/large",
        f"{tmp_path}/h",
    )
    with pytest.raises(SettingsError, match=r"state_dir is '~no\.such\.user/x': "):
        load_settings({"ASYNCWORKER_STATE_DIR": "~no.such.user/x"})
