"""Tasks that read a list over HTTP, and what it names."""

from celery import shared_task

from asyncworker import http


@shared_task(name="http.orders")
async def orders(url):
    client = await http.client(url, per_host=3)
    async for number in client.items("/orders"):
        yield number


@shared_task(name="http.order")
async def order(url, number):
    client = await http.client(url, per_host=3)
    return (await client.get("/order", params={"number": number})).json()["number"]
