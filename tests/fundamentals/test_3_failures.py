"""An item that fails does not stop the others; what failed is known by index, key, type, message and attempt."""

import pytest

from asyncworker import ItemErrors


def test_one_failure_is_raised_as_itself_at_the_end(tasks):
    result = tasks.count_shelf.partial(shop="Oslo").iterate(sku=tasks.skus.s(5)).delay()
    with pytest.raises(LookupError, match="sku-3 is lost"):
        result.get(timeout=120)
    assert result.results() == [4, 5, 6, 8]
    (failure,) = result.errors()
    assert (failure.index, failure.key, failure.type) == (3, "sku='sku-3'", "LookupError")


def test_several_are_raised_together(tasks):
    result = tasks.count_shelf.partial(shop="Oslo").iterate(sku=["sku-3", "sku-1", "sku-3"]).delay()
    with pytest.raises(ItemErrors, match="2 of 3 items failed"):
        result.get(timeout=120)


def test_an_item_is_tried_again(tasks):
    result = tasks.flaky.partial().options(retries=2, backoff_s=0.01).iterate(sku=["a"]).delay()
    result.get(timeout=120)
    assert result.results() == ["a on attempt 3"]
    assert result.progress().retried == 2


def test_or_the_first_failure_ends_the_run(tasks):
    options = {"on_error": "fail_fast", "concurrency": 1}
    result = tasks.count_shelf.partial(shop="Oslo").options(**options).iterate(sku=tasks.skus.s(100)).delay()
    with pytest.raises(LookupError):
        result.get(timeout=120)
    assert result.progress().done == 3


@pytest.mark.promise("skipped-item-did-not-fail")
def test_an_item_may_skip_itself(tasks):
    result = tasks.only_even.iterate(number=range(4)).delay()
    assert result.get(timeout=120)["skipped"] == 2
    assert result.results() == [0, 2]


def test_or_the_run_ends_once_too_many_have_failed(tasks):
    skus = ["sku-3"] * 50
    fan_out = tasks.count_shelf.partial(shop="Oslo").options(max_failures=2, concurrency=1).iterate(sku=skus)
    result = fan_out.delay()
    with pytest.raises(ItemErrors, match="3 of 50 items failed"):
        result.get(timeout=120)
    assert result.progress().error == "stopped: more than 2 items failed"
