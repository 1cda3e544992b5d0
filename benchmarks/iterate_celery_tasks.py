"""The task of a stock Celery worker, a message an item: ``celery -A benchmarks.iterate_celery_tasks worker``."""

from __future__ import annotations

import os

from celery import Celery

__all__ = ["app", "item"]

app: Celery = Celery("stock", broker=os.environ["BENCHMARK_BROKER_URL"], backend=os.environ["BENCHMARK_RESULT_URL"])
app.conf.update(task_default_queue="stock", broker_connection_retry_on_startup=True)


@app.task(name="benchmarks.iterate.stock_item")
def item(number: int) -> int:
    """Do nothing."""
    return number
