"""Results can be read while a run runs, by anyone who knows its id, and never need to fit into memory all at once."""

from asyncworker import IterateResult


async def test_as_they_are_finished(app, tasks):
    result = await tasks.slowly.partial().options(checkpoint_every_s=0.05).iterate(number=range(100)).adelay()
    seen = 0
    async for index, value in IterateResult(result.id, app=app).stream(order="completion"):
        assert index == value
        seen += 1
    assert seen == 100


def test_in_a_script(tasks):
    result = tasks.slowly.iterate(number=range(100)).delay()
    for index, value in result.iter_results(order="completion"):
        assert index == value


def test_in_the_order_of_the_source(tasks):
    result = tasks.restock.iterate(sku=["a", "b"]).delay()
    result.get(timeout=120)
    assert list(result.iter_results()) == [(0, "a is back"), (1, "b is back")]
    assert result.results() == ["a is back", "b is back"]
