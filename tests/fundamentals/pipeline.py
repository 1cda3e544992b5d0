"""The tasks of a pipeline: files from an SFTP server, parsed, into PostgreSQL."""

import asyncio
import os
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from celery import shared_task

from asyncworker import sftp, sql


@shared_task
async def list_orders(folder):
    async for entry in (await files()).list(folder):
        yield entry.path


@shared_task
async def load_orders(path):
    """One file: fetched whole, parsed, and each order stored under its number."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "orders.xml"
        await (await files()).get(path, local)
        orders = await asyncio.to_thread(parse, local)  # what takes long must not keep the loop
    return await sql.upsert_rows(await database(), "orders", orders, key=["number"])


def parse(file):
    return [
        {"number": int(order.get("number")), "sku": order.findtext("sku"), "amount": int(order.findtext("amount"))}
        for order in ElementTree.parse(file).iter("order")
    ]


async def files():  # one pool a process, shared by all items
    return await sftp.pool(
        os.environ["SFTP_HOST"],
        port=int(os.environ["SFTP_PORT"]),
        username=os.environ["SFTP_USERNAME"],
        password=os.environ["SFTP_PASSWORD"],
        known_hosts=os.environ["SFTP_KNOWN_HOSTS"],
    )


async def database():  # one engine a process, ten connections
    return await sql.engine(os.environ["DATABASE_URL"], connections=10)
