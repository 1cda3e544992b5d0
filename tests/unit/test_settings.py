import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SettingsError
from asyncworker.settings import Settings, load_settings


def test_defaults_need_no_environment() -> None:
    assert load_settings({}, {}) == Settings()


def test_environment_wins_over_configuration_and_that_over_defaults() -> None:
    conf = {"asyncworker_sync_threads": 8, "asyncworker_io_threads": 3, "broker_url": "redis://"}
    settings = load_settings({"ASYNCWORKER_SYNC_THREADS": "4", "HOME": "/x"}, conf)
    assert (settings.sync_threads, settings.io_threads) == (4, 3)


def test_include_is_a_list_separated_by_commas() -> None:
    assert load_settings({"ASYNCWORKER_INCLUDE": " shop.tasks, , bank.tasks"}).include == ("shop.tasks", "bank.tasks")
    assert load_settings({}, {"asyncworker_include": ["a", "b"]}).include == ("a", "b")


def test_an_unknown_name_is_refused_and_the_known_ones_are_told() -> None:
    with pytest.raises(SettingsError, match=r"ASYNCWORKER_SYNC_THREDS: no such setting; known: .*sync_threads"):
        load_settings({"ASYNCWORKER_SYNC_THREDS": "4"})


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
