"""An app of the user's own with tasks that outlast the visibility timeout."""

import os

from celery import Celery

import asyncworker

app = asyncworker.install(Celery("doctor_app"))
app.conf.broker_transport_options = {"visibility_timeout": 60}
plain = Celery("plain")


@app.task(name="slow", acks_late=True, time_limit=int(os.environ.get("DOCTOR_LIMIT_S", "61")))
async def slow() -> None: ...


@app.task(name="early", time_limit=61)
async def early() -> None: ...


@app.task(name="quick", acks_late=True, time_limit=59)
def quick() -> None: ...
