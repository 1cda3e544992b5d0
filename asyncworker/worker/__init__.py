"""Worker side: a stock Celery worker that runs ``async def`` tasks on one event loop."""
