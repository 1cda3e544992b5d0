"""Celery workers that run ``async def`` tasks by the thousand on one event loop a process."""
