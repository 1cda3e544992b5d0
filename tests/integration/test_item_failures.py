"""Whatever an item raises is the failure of that item: it says nothing of the run's message, or to the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord, group

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import ItemError, ItemErrors, SettingsError
from tests.integration import raising_tasks
from tests.integration.raising_tasks import RAISED
from tests.integration.test_fast_transport import until
from tests.servers.client import client_app
from tests.servers.worker import running_worker

GET_S = 120.0
MODULE = raising_tasks.__name__


@pytest.fixture(scope="module")
def app(_valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery[AsyncTask]]:
    folder = tmp_path_factory.mktemp("raising")
    env = {
        "ASYNCWORKER_BROKER_URL": _valkey.broker_url,
        "ASYNCWORKER_RESULT_URL": _valkey.result_url,
        "ASYNCWORKER_INCLUDE": MODULE,
        "ASYNCWORKER_STATE_DIR": str(folder),
    }
    with redis.Redis.from_url(_valkey.redis_url) as connection:
        connection.flushall()
    with (
        running_worker(folder, "--without-mingle", env=env),
        client_app(_valkey, asyncworker_state_dir=str(folder)) as client,
    ):
        yield client


@pytest.mark.parametrize("task", ["raising.item", "raising.on_thread"])
@pytest.mark.parametrize("name", sorted(RAISED))
def test_the_only_failure_ends_the_run_as_a_failure_whatever_it_is(
    app: Celery[AsyncTask], task: str, name: str
) -> None:
    result = app.tasks[task].iterate(name=["", name, ""]).delay()

    with pytest.raises(Exception) as caught:
        result.get(timeout=GET_S)

    kind = type(RAISED[name])
    assert not isinstance(caught.value, TimeoutError) or isinstance(caught.value, ItemError)
    assert kind.__name__ in f"{type(caught.value).__name__}: {caught.value}"
    progress = result.progress()
    assert (progress.state, progress.done, progress.failed) == ("failed", 2, 1)
    assert result.state == "FAILURE"
    assert [(failure.index, failure.type.rpartition(".")[2]) for failure in result.errors()] == [(1, kind.__qualname__)]


@pytest.mark.parametrize("name", ["Ignore", "Reject", "Retry", "requeue", "SystemExit"])
def test_what_follows_the_run_is_told(app: Celery[AsyncTask], name: str, tmp_path: Path) -> None:
    folder = str(tmp_path)
    fan_out = app.tasks["raising.item"].iterate(name=[name])
    fan_out.link_error(app.tasks["raising.errback"].s(folder))
    with pytest.raises(ItemError, match=type(RAISED[name]).__name__):
        fan_out.delay().get(timeout=GET_S)
    given = tmp_path / "errback"
    until(lambda: given.exists() and given.read_text(), "the errback")  # it may be called after the outcome is stored
    assert type(RAISED[name]).__name__ in given.read_text()

    whole = chord(
        group(app.tasks["raising.item"].iterate(name=["", name])), app.tasks["raising.note"].si(folder, "body")
    )
    with pytest.raises(Exception, match=type(RAISED[name]).__name__):
        whole.delay().get(timeout=GET_S)
    assert not (tmp_path / "body").exists()


async def test_several_in_this_process_are_a_group_of_failures(app: Celery[AsyncTask]) -> None:
    names = sorted(RAISED)
    with pytest.raises(ItemErrors) as caught:
        await app.tasks["raising.item"].iterate(name=names[:20]).run()
    assert len(caught.value.exceptions) == 20
    for name in names:
        with pytest.raises(Exception) as one:
            await app.tasks["raising.item"].iterate(name=[name]).run()
        assert type(RAISED[name]).__name__ in f"{type(one.value).__name__}: {one.value}"


@pytest.mark.promise("item-retry-is-one-of-the-runs")
def test_a_retry_of_the_task_is_one_of_the_item(app: Celery[AsyncTask]) -> None:
    run = app.tasks["raising.retries"].partial(until=3).options(retries=2, retry_on=[OSError], results="inline")
    assert run.iterate(number=[1, 2]).delay().get(timeout=GET_S) == [3, 3]


def test_a_retry_that_the_run_does_not_have_left_is_the_failure_that_it_names(app: Celery[AsyncTask]) -> None:
    with pytest.raises(ValueError, match="attempt 2"):
        app.tasks["raising.retries"].partial(until=9).options(retries=1).iterate(number=[1]).delay().get(timeout=GET_S)


@pytest.mark.parametrize("method", ["replace", "add_to_chord", "update_state"])
@pytest.mark.promise("item-is-no-message")
def test_what_needs_a_message_is_refused_in_an_item(app: Celery[AsyncTask], method: str) -> None:
    with pytest.raises(ItemError, match=rf"raising\.on_self\.{method}\(\) in item 0: an item has no message"):
        app.tasks["raising.on_self"].iterate(method=[method]).delay().get(timeout=GET_S)


@pytest.mark.parametrize(
    ("task", "attribute", "option"),
    [
        ("autoretry", "autoretry_for", {"retries": 1}),
        ("limited", "time_limit", {"item_timeout_s": 5}),
        ("softly_limited", "soft_time_limit", {"item_timeout_s": 5}),
        ("rated", "rate_limit", {"limits": ["of-a-host"]}),
    ],
)
@pytest.mark.promise("message-options-are-refused-for-items")
def test_what_a_task_says_of_its_messages_must_be_said_of_items(
    app: Celery[AsyncTask], task: str, attribute: str, option: dict[str, Any]
) -> None:
    target = app.tasks[f"raising.{task}"]
    with pytest.raises(SettingsError, match=rf"raising\.{task} has {attribute}=.*options\({next(iter(option))}"):
        target.iterate(number=[1])
    target.partial().options(**option).iterate(number=[1])
