"""6. Resources: what outlives a task is made once and shared."""

from typing import Annotated

from asyncworker import app, resource, use
from asyncworker.resources import lifetimes


class Catalogue:
    def __init__(self, shop):
        self.shop = shop

    async def price(self, sku):
        return len(sku)


@resource
async def address():
    yield "shop.example.com"


@resource
async def catalogue(shop: Annotated[str, address]):  # a resource may need another
    opened = Catalogue(shop)  # connect here
    yield opened
    opened.shop = None  # and disconnect here


@app.task
async def price(sku, prices: Annotated[Catalogue, catalogue]):
    return await prices.price(sku)


async def test_a_task_does_not_pass_its_resources():
    assert await price("sku-1") == 5
    assert await price.iterate(sku=["sku-1", "sku-20"]).run() == [5, 6]


async def test_everyone_gets_the_same_one_until_it_is_closed():
    first, second = await use(catalogue), await use(catalogue)
    assert first is second
    assert first.shop == "shop.example.com"
    await lifetimes().close()  # as a worker does when it ends
    assert first.shop is None


async def test_a_test_puts_another_in_its_place():
    class Free:
        async def price(self, sku):
            return 0

    with catalogue.override(Free()):
        assert await price("sku-1") == 0
