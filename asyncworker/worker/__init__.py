"""What makes a stock Celery worker run ``async def`` tasks on one event loop."""
