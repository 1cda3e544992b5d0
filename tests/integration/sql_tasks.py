"""Tasks over a table of orders."""

from celery import shared_task
from sqlalchemy import text

from asyncworker import sql


@shared_task(name="sql.prepare")
async def prepare(url, count):
    engine = await sql.engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)"))
        await sql.copy_rows(connection, "orders", ({"id": number, "amount": number} for number in range(count)))


@shared_task(name="sql.orders")
async def orders(url):
    async for row in sql.stream_rows(await sql.engine(url), "SELECT id, amount FROM orders ORDER BY id"):
        yield row


@shared_task(name="sql.double")
async def double(url, order):
    row = {"id": order["id"], "amount": 2 * order["amount"]}
    await sql.upsert_rows(await sql.engine(url), "orders", [row], key=["id"])


@shared_task(name="sql.total")
async def total(url):
    async with (await sql.engine(url)).connect() as connection:
        return list((await connection.execute(text("SELECT count(*), sum(amount) FROM orders"))).one())
