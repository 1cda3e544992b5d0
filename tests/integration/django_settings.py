"""Django's settings in the tests: one PostgreSQL, whose connections are kept for as long as they are told to."""

from __future__ import annotations

import json
import os

SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS: list[str] = []
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ.get("DJANGO_PORT", ""),
        "NAME": os.environ.get("DJANGO_DATABASE", ""),
        "USER": "postgres",
        "CONN_MAX_AGE": json.loads(os.environ.get("DJANGO_MAX_AGE", "0")),
    }
}
