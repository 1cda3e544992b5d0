"""A Django project's Celery app whose results are in its database."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integration.django_results_settings"

import django
from django.core.management import call_command

from tests.integration.django_app import app

django.setup()
call_command("migrate", verbosity=0)
app.conf.result_backend = "django-db"


@app.task(name="d.note")
async def note(path: str) -> None:
    with Path(path).open("a") as log:
        log.write("x")
