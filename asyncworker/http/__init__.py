"""HTTP for thousands of requests: one pooled client a process, with retries, limits a host, and pages as a source.

::

    client = await http.client("https://api.example.com", token="...")   # one a process, shared by all tasks
    order = (await client.get("/orders/17")).json()
    async for order in client.items("/orders", pages=http.Links()):
        ...

Files: options (what tells one client from another), retries (what is tried again, and when), hosts (how many requests
at once), connections (the pool below httpx), failures (what went wrong, as errors of ours), client (what a
task calls), pages (how a list goes on).
"""

try:
    import httpx as _httpx  # noqa: F401
except ImportError as exc:
    raise ImportError("asyncworker.http needs httpx: pip install 'asyncworker[http]'") from exc

from asyncworker.http.client import HTTPClient, client, open_client
from asyncworker.http.pages import Cursor, Links, Numbers, Page, Paging

__all__ = ["Cursor", "HTTPClient", "Links", "Numbers", "Page", "Paging", "client", "open_client"]
