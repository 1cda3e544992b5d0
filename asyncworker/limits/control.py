"""Inspection and control of cluster limits directly in Redis, without asking a worker. Blocks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import redis

from asyncworker.errors import LimitError
from asyncworker.limits.cluster import limits_url
from asyncworker.limits.limit import check_amount, number_text
from asyncworker.limits.scripts import AMOUNTS, CHANGED, DECLARED, key_of

__all__ = ["ClusterLimit", "Holder", "change_cluster_limit", "cluster_limits"]

#: How long Redis may take to answer.
ANSWER_S = 5.0


class Holder(msgspec.Struct, frozen=True):
    """Holder of a permit, or a waiter for one."""

    holder: str
    process: str
    since_s: float
    """Since 1970; of one who waits, when he came."""
    waits: bool


class ClusterLimit(msgspec.Struct, frozen=True):
    """One key of a limit of the cluster; a limit that nobody uses has one, without a key."""

    name: str
    kind: str
    amount: float
    declared: float
    key: str
    holders: list[Holder]


def cluster_limits() -> list[ClusterLimit]:
    """Return the limits that any process of the cluster has used, with who holds and who waits.

    Raises:
        LimitError: There is no Redis for them, or it does not answer.
    """
    with _client() as client, _told():
        changed = {name.decode(): float(amount) for name, amount in client.hgetall(AMOUNTS).items()}
        found: list[ClusterLimit] = []
        for raw_name, raw in sorted(client.hgetall(DECLARED).items()):
            name, what = raw_name.decode(), json.loads(raw)
            declared = float(what.get("permits", what.get("amount", 0)))
            amount = changed.get(name, declared)
            for key in _keys(client, name) or [""]:
                found.append(ClusterLimit(name, what["kind"], amount, declared, key, _holders(client, name, key)))
        return found


def change_cluster_limit(name: str, amount: float) -> bool:
    """Change the number of a limit for the whole cluster, until it is changed again; false where nobody knows it.

    Raises:
        SettingsError: The number is not one that a limit can have.
        LimitError: There is no Redis for it, or it does not answer.
    """
    with _client() as client, _told():
        raw = client.hget(DECLARED, name)
        if raw is None:
            return False
        check_amount(name, json.loads(raw)["kind"], amount)
        client.hset(AMOUNTS, name, number_text(amount))
        client.publish(CHANGED, name)
        return True


def _keys(client: Any, name: str) -> list[str]:
    keys = set()
    for part in ("held", "queue"):
        prefix = key_of(part, name, "")
        keys |= {found.decode().removeprefix(prefix) for found in client.scan_iter(match=f"{prefix}*", count=1000)}
    return sorted(keys)


def _holders(client: Any, name: str, key: str) -> list[Holder]:
    described = client.hgetall(key_of("holders", name, key))
    found = []
    for part in ("held", "queue"):
        for id in client.zrange(key_of(part, name, key), 0, -1):
            what = json.loads(described.get(id, b"{}"))
            process = id.decode().rpartition("/")[0]
            found.append(Holder(what.get("holder", "?"), process, what.get("since", 0.0), part == "queue"))
    return found


def _client() -> Any:
    return redis.Redis.from_url(limits_url(), socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)


class _told:
    """Says in one line that Redis does not answer."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, redis.RedisError | OSError):
            raise LimitError(f"the Redis of cluster-wide limits does not answer: {error}") from error
