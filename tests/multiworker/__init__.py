"""Several workers at once, as pytest-celery's nodes, each a process of this machine."""
