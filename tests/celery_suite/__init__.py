"""Celery's own integration suite, run against asyncworker's pool and against stock prefork, test by test."""
