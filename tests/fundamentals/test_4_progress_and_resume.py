"""A run remembers what is done. Whatever ends it early, it goes on from there."""

import time

import pytest
from celery.result import AsyncResult

from asyncworker import IterateResult
from asyncworker.errors import RunCancelled


@pytest.mark.promise("progress-for-anyone")
def test_progress_can_be_read_by_anyone_who_knows_the_id(app, tasks):
    run_id = tasks.slowly.iterate(number=range(50)).delay().id
    result = IterateResult(run_id, app=app)
    result.get(timeout=120)
    progress = result.progress()
    assert (progress.state, progress.done, progress.total, progress.fraction) == ("done", 50, 50, 1.0)


def test_or_by_any_client_of_celery(app, tasks):
    run_id = tasks.slowly.partial().options(concurrency=2).iterate(number=range(800)).delay().id
    result = AsyncResult(run_id, app=app)
    while result.state != "PROGRESS":
        time.sleep(0.05)
    info = result.info
    assert info["total"] == 800
    assert 0 < info["done"] < 800
    assert info["rate"] > 0
    assert result.get(timeout=120)["done"] == 800


def test_cancelled_half_way_and_resumed(tasks):
    result = tasks.slowly.partial().options(concurrency=5, checkpoint_every_s=0.05).iterate(number=range(1000)).delay()
    while not result.progress().done:
        time.sleep(0.02)
    result.cancel()
    with pytest.raises(RunCancelled):
        result.get(timeout=120)
    done_before = result.progress().done
    assert result.resume().get(timeout=120)["resumed"] == done_before
    assert result.results() == list(range(1000))


def test_only_what_failed_is_run_again(tasks):
    result = tasks.count_shelf.partial(shop="Oslo").iterate(sku=tasks.skus.s(5)).delay()
    with pytest.raises(LookupError):
        result.get(timeout=120)
    with pytest.raises(LookupError):
        result.retry_failed().get(timeout=120)
    assert result.progress().resumed == 4
