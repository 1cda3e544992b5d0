"""At most so many at once, at most so often: per process or, on Redis, in the whole cluster.

::

    sftp = Semaphore("sftp", 20, cluster=True)
    api = RateLimit("api", 100, per_s=1, cluster=True)

    async with limit("sftp", key=host), limit("api", key=tenant):
        ...

Files: limit (what is declared, and its names), permit (one use), local (in this process), cluster (on Redis), scripts
(what Redis runs), control (what the command line does).
"""

from asyncworker.limits.cluster import use_limits_url
from asyncworker.limits.limit import Limit, RateLimit, Semaphore, find_limit, limits, number_text
from asyncworker.limits.permit import Permit
from asyncworker.limits.use import Held, LimitUse, holding, in_order, limit, refuse_twice, uses_of

__all__ = [
    "Held",
    "Limit",
    "LimitUse",
    "Permit",
    "RateLimit",
    "Semaphore",
    "find_limit",
    "holding",
    "in_order",
    "limit",
    "limits",
    "number_text",
    "refuse_twice",
    "use_limits_url",
    "uses_of",
]
