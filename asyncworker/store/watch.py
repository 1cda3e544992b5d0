"""Watch the signs of life of whoever holds a run or a lease, before anybody has to wait for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.store import schema
from asyncworker.store.silence import Silence

if TYPE_CHECKING:
    from datetime import datetime

    from asyncworker.store.sql import Store

__all__ = ["look_at_holders", "silence_of"]


async def look_at_holders(store: Store, every_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
    """Count how long each holder has been silent. A message that comes again need not wait for what is known then.

    Args:
        store: Where runs and leases are.
        every_s: How often this is called.
        clock: Time.

    Raises:
        StoreError: The database cannot be used.
    """
    run, lease = schema.run, schema.lease
    async with store.reading() as connection:
        runs = await connection.execute(select(run.c.run_id, run.c.updated_at).where(run.c.state == "running"))
        signs: dict[tuple[str, str], datetime] = {("run", row.run_id): row.updated_at for row in runs}
        leases = await connection.execute(select(lease.c.key, lease.c.renewed_at).where(~lease.c.ended))
        signs |= {("lease", row.key): row.renewed_at for row in leases}
    for gone in store.silences.keys() - signs.keys():
        del store.silences[gone]
    for key, sign in signs.items():
        if key not in store.silences:
            store.silences[key] = Silence(every_s, clock)
        store.silences[key].lasts_s(sign)


def silence_of(store: Store, kind: str, key: str, lease_s: float, clock: Clock = SYSTEM_CLOCK) -> Silence:
    """Return how long a holder has been silent, as far as it was watched; from now on, where it was not.

    Args:
        store: Where it leaves its signs.
        kind: ``run`` or ``lease``.
        key: Id of the run or partition, or key of the lease.
        lease_s: How long a holder may be silent.
        clock: Time.
    """
    return store.silences.get((kind, key)) or Silence.of_lease(lease_s, clock)
