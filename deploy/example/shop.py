"""A module with tasks, for the compose file: replace it by your own."""

import asyncio

from asyncworker import app


@app.task
async def restock(sku):
    """Wait a second; a thousand of these at once take one."""
    await asyncio.sleep(1)
    return f"{sku} is back"
