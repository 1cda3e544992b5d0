"""The tasks of these pages: a shop that restocks its shelves."""

import asyncio

from celery import shared_task

from asyncworker import SkipItem, current_item, state


@shared_task
async def restock(sku):
    await asyncio.sleep(0.01)
    return f"{sku} is back"


@shared_task
def print_label(sku):  # not async: runs in a thread
    return f"[{sku}]"


@shared_task
async def skus(count):  # an async generator: the lazy source of a fan-out
    for number in range(count):
        yield f"sku-{number}"


@shared_task
async def count_shelf(shop, sku):
    await asyncio.sleep(0)
    if sku == "sku-3":
        raise LookupError(f"{sku} is lost")
    return len(shop) + int(sku.removeprefix("sku-"))


@shared_task
async def flaky(sku):
    if current_item().attempt < 3:
        raise ConnectionError("the shop is busy")
    return f"{sku} on attempt {current_item().attempt}"


@shared_task
async def only_even(number):
    if number % 2:
        raise SkipItem
    return number


@shared_task
async def slowly(number):
    await asyncio.sleep(0.02)
    return number


@shared_task(bind=True, max_retries=5)
async def read_pages(self, last):
    page = await state.get("page", 1)
    await state.set("page", page + 1)
    if page < last:
        raise self.retry(countdown=0)
    return f"page {page}, after {self.request.retries} retries"


@shared_task
def visits():  # not async: the blocking twin
    count = state.blocking.get("visits", 0) + 1
    state.blocking.set("visits", count)
    return count
