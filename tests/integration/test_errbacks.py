"""``link_error`` tasks that are ``async def`` and take the failed request, which Celery calls as plain functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from tests.integration import errback_tasks
from tests.servers.worker import Worker

#: More than there are I/O threads, from which they are called: none may wait for another.
FAILURES = 40


@pytest.fixture
def node(worker: Callable[..., Worker]) -> Worker:
    return worker(errback_tasks.__name__, "--without-mingle", "--without-gossip")


def fail(client: Celery, name: str, errback: str = "e.handle") -> str:
    # The id alone: a result that outlives the broker, in the traceback of its exception, would look for it for ever.
    return str(client.send_task(name, link_error=client.signature(errback)).id)


def handled(client: Celery, task_id: str) -> object:
    return client.AsyncResult(f"{task_id}-handled").get(timeout=120)


def test_they_run_and_may_wait_and_send(node: Worker, client: Celery) -> None:
    failed = [fail(client, name) for name in ("e.fail_sync", "e.fail_async") for _ in range(FAILURES)]
    assert [handled(client, task_id) for task_id in failed] == ["KeyError in e.handle"] * 2 * FAILURES
    assert node.stop() == 0


@pytest.mark.parametrize("name", ["e.too_long", "e.too_long_sync"])
@pytest.mark.promise("errbacks-are-called-once")
def test_of_a_task_past_its_hard_limit(node: Worker, client: Celery, name: str) -> None:
    assert handled(client, fail(client, name)) == "TimeLimitExceeded in e.handle"


def test_one_that_fails_is_told_in_the_log(node: Worker, client: Celery) -> None:
    fail(client, "e.fail_async", "e.handle_badly")
    node.wait_for_log("the errback e.handle_badly failed")
    assert client.send_task("e.store", ("still alive",)).get(timeout=120) == "still alive"
    assert node.stop() == 0


@pytest.mark.parametrize("errback", ["e.handle_sync", "e.store"])
@pytest.mark.parametrize(
    "name", ["e.fail_sync", "e.fail_async", "e.too_long", "e.too_long_sync", "e.too_long_late", "e.raises_base"]
)
@pytest.mark.promise("errbacks-are-called-once")
def test_each_is_called_once(node: Worker, client: Celery, name: str, errback: str) -> None:
    """However a task fails: its errbacks are called, or sent, once, and so is the signal of its failure."""
    options = {"queue": "counted"} if errback == "e.store" else {}
    failed = str(client.send_task(name, link_error=client.signature(errback, **options)).id)
    client.AsyncResult(failed).get(timeout=120, propagate=False)
    assert node.stop() == 0
    assert node.log().count(f"failure of {failed}") == 1
    with client.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("counted", passive=True).message_count == 1


@pytest.mark.parametrize("errback", ["e.handle_badly_sync", "e.handle_badly"])
def test_one_that_fails_leaves_the_failure_as_it_was(node: Worker, client: Celery, errback: str) -> None:
    failed = fail(client, "e.fail_async", errback)
    node.wait_for_log(f"the errback {errback} failed")
    with pytest.raises(KeyError, match="async"):
        client.AsyncResult(failed).get(timeout=120)
    assert node.stop() == 0
    assert node.log().count(f"the errback {errback} failed") == 1


def test_a_hook_that_fails_calls_none_again(node: Worker, client: Celery) -> None:
    failed = str(client.send_task("e.fail_and_hook_fails", link_error=client.signature("e.store", queue="counted")).id)
    node.wait_for_log("what came after that changes nothing")
    with pytest.raises(KeyError, match="its own"):
        client.AsyncResult(failed).get(timeout=120)
    assert node.stop() == 0
    with client.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("counted", passive=True).message_count == 1


def test_a_retry_that_cannot_be_sent_is_a_failure(node: Worker, client: Celery) -> None:
    with pytest.raises(Exception, match="JSON serializable"):
        client.send_task("e.again_badly").get(timeout=120)
    assert node.stop() == 0
