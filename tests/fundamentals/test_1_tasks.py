"""Tasks are Celery's. Those that are ``async def`` run together on one event loop, the others in threads."""

import pytest
from celery import chain, group

from asyncworker import publish_many


def test_send_a_task_and_wait_for_it(tasks):
    assert tasks.restock.delay("A-17").get(timeout=120) == "A-17 is back"


@pytest.mark.promise("def-tasks-run-beside")
def test_a_task_that_is_not_async_runs_beside_the_others(tasks):
    assert tasks.print_label.delay("A-17").get(timeout=120) == "[A-17]"


def test_hundreds_wait_at_the_same_time(tasks):
    results = [tasks.restock.delay(f"A-{number}") for number in range(200)]
    assert results[-1].get(timeout=120) == "A-199 is back"


def test_canvas_is_celerys_own(app, tasks):
    chained = chain(tasks.restock.s("A-17"), tasks.print_label.s(), app=app)
    assert chained.delay().get(timeout=120) == "[A-17 is back]"
    grouped = group([tasks.print_label.s(sku) for sku in "ab"], app=app)
    assert grouped.delay().get(timeout=120) == ["[a]", "[b]"]


async def test_inside_a_coroutine_await_the_sending_and_the_result(tasks):
    result = await tasks.restock.adelay("A-17")
    assert await result.aget(timeout=120) == "A-17 is back"
    results = await publish_many(tasks.print_label.s(sku) for sku in "ab")
    assert [await result.aget(timeout=120) for result in results] == ["[a]", "[b]"]


async def test_called_directly_a_task_is_its_coroutine(tasks):
    assert await tasks.restock("A-17") == "A-17 is back"


def test_in_tests_of_your_own_apply_needs_no_worker(tasks):
    assert tasks.restock.apply(("A-17",)).get() == "A-17 is back"
