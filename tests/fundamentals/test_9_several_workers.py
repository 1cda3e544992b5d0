"""A source of known length can be split over workers: it stays one run."""

import pytest

from asyncworker import ItemErrors
from asyncworker.errors import SourceError


@pytest.mark.promise("partitions-are-one-run")
def test_a_run_in_partitions_is_one_run(tasks):
    result = tasks.restock.partial().options(partitions=3).iterate(sku=["a", "b", "c", "d"]).delay()
    assert result.get(timeout=120)["done"] == 4
    assert result.results() == ["a is back", "b is back", "c is back", "d is back"]


def test_failures_of_all_partitions_are_told_together(tasks):
    skus = ["sku-3", "sku-1", "sku-2", "sku-3"]
    result = tasks.count_shelf.partial(shop="Oslo").options(partitions=2, name="stocktaking").iterate(sku=skus).delay()
    with pytest.raises(ItemErrors, match="stocktaking: 2 of 4 items failed"):
        result.get(timeout=120)
    assert [failure.index for failure in result.errors()] == [0, 3]


def test_how_long_the_source_is_must_be_known(tasks):
    with pytest.raises(SourceError, match="cannot be known beforehand"):
        tasks.restock.partial().options(partitions=2).iterate(sku=tasks.skus.s(5))
