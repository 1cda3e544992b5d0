"""The same with the table in which a Django project keeps its results."""

from __future__ import annotations

from tests.integration.django_settings import *  # noqa: F403

INSTALLED_APPS = ["django_celery_results"]
