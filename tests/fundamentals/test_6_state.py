"""``asyncworker.state``: what a task sets is there for the next execution of the same task id."""

import pytest

from asyncworker import state
from asyncworker.errors import StateError


def test_a_retry_goes_on_where_the_task_stood(tasks):
    assert tasks.read_pages.delay(last=4).get(timeout=120) == "page 4, after 3 retries"


def test_state_belongs_to_the_task_id(tasks):
    assert [tasks.visits.delay().get(timeout=120) for _ in range(2)] == [1, 1]
    assert tasks.visits.apply_async(task_id="visitor-1").get(timeout=120) == 1
    assert tasks.visits.apply(task_id="visitor-1").get() == 2  # here and now, on the same store


async def test_outside_of_a_task_there_is_none():
    with pytest.raises(StateError):
        await state.get("page")
