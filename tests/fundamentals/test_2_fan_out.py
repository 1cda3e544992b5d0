"""``iterate`` runs one task over many items inside one message; ``partial`` fixes the arguments that stay the same."""

from celery import chain

from asyncworker import previous_result


def test_over_a_list(tasks):
    result = tasks.restock.iterate(sku=["a", "b", "c"]).delay()
    result.get(timeout=120)
    assert result.results() == ["a is back", "b is back", "c is back"]


def test_with_fixed_arguments_and_options(tasks):
    result = tasks.count_shelf.partial(shop="Oslo").options(concurrency=2).iterate(sku=["sku-1", "sku-2"]).delay()
    result.get(timeout=120)
    assert result.results() == [5, 6]


def test_over_what_another_task_yields_on_the_worker(tasks):
    result = tasks.restock.iterate(sku=tasks.skus.s(1000)).delay()
    assert result.get(timeout=120)["done"] == 1000


def test_over_two_keywords_the_last_changes_fastest(tasks):
    fan_out = tasks.count_shelf.partial().options(results="inline")
    product = fan_out.iterate(shop=["Oslo", "Bergen"], sku=["sku-1", "sku-2"])
    assert product.delay().get(timeout=120) == [5, 6, 7, 8]
    pairs = fan_out.iterate(mode="zip", shop=["Oslo", "Bergen"], sku=["sku-1", "sku-2"])
    assert pairs.delay().get(timeout=120) == [5, 8]


def test_over_the_result_of_the_task_before(app, tasks):
    fan_out = tasks.print_label.partial().options(results="inline").iterate(sku=previous_result)
    assert chain(tasks.skus.s(2), fan_out, app=app).delay().get(timeout=120) == ["[sku-0]", "[sku-1]"]


async def test_here_and_now_with_no_broker(tasks):
    async def skus():
        for sku in "ab":
            yield sku

    assert await tasks.restock.iterate(sku=skus()).run() == ["a is back", "b is back"]
    assert await tasks.restock.iterate(sku=tasks.skus.s(1)).run() == ["sku-0 is back"]


def test_expand_is_a_message_an_item_instead(tasks):
    assert tasks.print_label.expand(sku=["a", "b"]).delay().get(timeout=120) == ["[a]", "[b]"]
