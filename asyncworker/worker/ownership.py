"""Ownership of unacknowledged messages: those of a process that falls silent return to their queues at once.

kombu returns an unacknowledged message after the visibility timeout, an hour by default, because an entry does not say
whose it is. Ours does: a message's tag begins with the id of its owner, and a hash beside ``unacked`` has a heartbeat
of each owner. Whoever sees that one has not changed for a lease marks the owner as released, in one step, and returns
its entries. An owner that was only frozen, or parted from the broker, learns of that with whatever it does next: it
fetches nothing and acknowledges nothing under an id that was released.

Entries of stock workers name no owner of ours: they wait for the visibility timeout, as ours do where the transport is
kombu's own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.redis_refusals import RefusedForNow
from asyncworker.store import Silence

__all__ = ["ACKNOWLEDGE", "OWNERS", "Owner", "OwnershipLost", "on_ownership_lost", "on_suspicion", "suspects"]

logger = logging.getLogger(__name__)

#: Name of the hash, after that of the unacknowledged messages.
OWNERS = ".owners"
#: In the place of a heartbeat: others are returning this owner's messages.
RELEASED = b"released"

#: How many heartbeats fit into a lease.
BEATS_A_LEASE = 10
#: How many entries are returned in one step.
CHUNK = 200

_LOST, _HELD, _REFUSED = 0, 1, 2

#: KEYS: owners. ARGV: id, 1 where it is new. A server that is full still says whose the messages are.
BEAT = """
local beat = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] ~= '1' and (not beat or beat == 'released') then return {0} end
local written = redis.pcall('HINCRBY', KEYS[1], ARGV[1], 1)
if type(written) == 'table' and written.err then
  if ARGV[2] ~= '1' and string.find(written.err, 'OOM', 1, true) then return {2} end
  return written
end
return {1, redis.call('HGETALL', KEYS[1])}
"""

#: KEYS: owners, unacked, unacked_index. ARGV: id, then tags. Nothing is acknowledged by an owner that was released:
#: its messages may be on their way to others.
ACKNOWLEDGE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or 'released') == 'released' then return 0 end
redis.call('ZREM', KEYS[3], unpack(ARGV, 2))
redis.call('HDEL', KEYS[2], unpack(ARGV, 2))
return 1
"""

#: KEYS: owners. ARGV: id, the heartbeat that was seen last.
RELEASE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'released')
return 1
"""

#: KEYS: unacked, unacked_index, then a queue for each message. ARGV: each tag, and the message.
RETURN = """
local returned = 0
for at = 1, #ARGV, 2 do
  if redis.call('HDEL', KEYS[1], ARGV[at]) == 1 then
    redis.call('RPUSH', KEYS[2 + (at + 1) / 2], ARGV[at + 1])
    returned = returned + 1
  end
  redis.call('ZREM', KEYS[2], ARGV[at])
end
return returned
"""

#: KEYS: owners. ARGV: id. Nothing where others are returning its messages.
LEAVE = "if redis.call('HGET', KEYS[1], ARGV[1]) ~= 'released' then redis.call('HDEL', KEYS[1], ARGV[1]) end"

#: KEYS: owners. ARGV: id.
FORGET = "if redis.call('HGET', KEYS[1], ARGV[1]) == 'released' then redis.call('HDEL', KEYS[1], ARGV[1]) end"


class OwnershipLost(ConnectionError):
    """This process was silent for a lease, and its messages have returned to their queues: it connects anew."""


#: Owners that may be dead: seen for the first time, with no heartbeat since, or silent for a while.
_suspects: set[str] = set()
_suspicion_listeners: list[Callable[[], object]] = []


def suspects() -> bool:
    """Tell whether another process may have died, by what the broker knows. From any thread."""
    return bool(_suspects)


@contextlib.contextmanager
def on_suspicion(listener: Callable[[], object]) -> Iterator[None]:
    """Have that called, on the main thread, when there is another process that may have died."""
    _suspicion_listeners.append(listener)
    try:
        yield
    finally:
        _suspicion_listeners.remove(listener)


_listeners: list[Callable[[Owner], None]] = []


def on_ownership_lost(listener: Callable[[Owner], None]) -> None:
    """Have that called, on the main thread, when an owner of this process has lost its messages."""
    _listeners[:] = [listener]


class Owner:
    """This process, as the owner of what it has fetched from one broker; and its view of the others.

    Main thread.

    Args:
        lease_s: An owner that is silent for so long is released.
        clock: Time.
    """

    def __init__(self, lease_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.id = uuid.uuid4().hex
        self.lease_s = lease_s
        self.every_s = lease_s / BEATS_A_LEASE
        self.lost = False
        self.left = False
        self._clock = clock
        self._registered = False
        self._held_until_s = -math.inf
        self._silences: dict[str, Silence] = {}
        self._returning: set[str] = set()

    @property
    def is_certain(self) -> bool:
        """Whether nobody can have released it since its last heartbeat."""
        return not self.lost and self._clock.monotonic() < self._held_until_s

    def owns(self, delivery_tag: Any) -> bool:
        """Tell whether a message was fetched by this owner."""
        return str(delivery_tag).startswith(self.id)

    def beat(self, channel: Any) -> None:
        """Leave a heartbeat, look at those of others, and release who has left none for a lease.

        Raises:
            RefusedForNow: The server takes no heartbeat now, from nobody.
            Exception: One of the channel's connection errors.
        """
        if self.lost or self.left:
            return
        sent_at_s = self._clock.monotonic()
        new = "" if self._registered else "1"
        try:
            with channel.conn_or_acquire() as client:
                state, *signs = client.execute_command("EVAL", BEAT, 1, channel.owners_name, self.id, new)
        except RefusedForNow:
            self._restart_silences()
            raise
        if state == _LOST:
            self.lose()
            return
        self._registered = True
        # The others count from when they see it.
        self._held_until_s = sent_at_s + self.lease_s
        if state == _REFUSED:
            self._restart_silences()
        else:
            names, values = signs[0][::2], signs[0][1::2]
            self._judge(channel, dict(zip(map(bytes_to_str, names), values, strict=True)))

    def acknowledge(self, channel: Any, tags: list[str]) -> bool:
        """Acknowledge messages, all or, where it was released, none; tell which.

        Raises:
            Exception: One of the channel's connection errors.
        """
        keys = channel.owners_name, channel.unacked_name, channel.unacked_index_name
        with channel.conn_or_acquire() as client:
            held = bool(client.execute_command("EVAL", ACKNOWLEDGE, len(keys), *keys, self.id, *tags))
        if not held:
            self.lose()
        return held

    def leave(self, channel: Any) -> None:
        """End in order: there is nothing left that is unacknowledged, and nobody needs to look for it."""
        self.left = True
        with channel.conn_or_acquire() as client:
            client.execute_command("EVAL", LEAVE, 1, channel.owners_name, self.id)

    def lose(self) -> None:
        """Stop to be the owner: others have what was not acknowledged."""
        if self.lost:
            return
        self.lost = True
        _suspects.difference_update(self._silences)  # those that its successor sees are its own
        logger.error(
            "this process was silent for %g s: its unacknowledged messages were returned to their queues; reconnecting",
            self.lease_s,
        )
        for listener in _listeners:
            listener(self)

    # -- others --------------------------------------------------------------------------------------------------

    def _restart_silences(self) -> None:
        # Nobody could write.
        for silence in self._silences.values():
            silence.begin()

    def _judge(self, channel: Any, signs: dict[str, bytes]) -> None:
        signs.pop(self.id, None)
        for gone in self._silences.keys() - signs.keys():
            del self._silences[gone]
            _suspects.discard(gone)
        self._returning &= signs.keys()
        suspected = len(_suspects)
        for owner, sign in signs.items():
            silent = self._silence_of(owner, sign) >= self.lease_s
            if owner in self._returning or (silent and self._release(channel, owner, sign)):
                self._returning.add(owner)
                self._return_messages(channel, owner)
        if len(_suspects) > suspected:
            for listener in list(_suspicion_listeners):
                listener()

    def _silence_of(self, owner: str, sign: bytes) -> float:
        """Return for how many seconds an owner has left no heartbeat, and note whether it may be dead."""
        new = owner not in self._silences
        silent_s = self._silences.setdefault(owner, Silence(self.every_s, self._clock)).lasts_s(sign)
        # One that is new here may have died before: whoever waits until it is silent for a while is late by that.
        if new or silent_s >= self.lease_s / 5:
            _suspects.add(owner)
        elif not silent_s:
            _suspects.discard(owner)
        return silent_s

    def _release(self, channel: Any, owner: str, sign: bytes) -> bool:
        if sign == RELEASED:  # by one who did not live to return its messages
            return True
        with channel.conn_or_acquire() as client:
            return bool(client.execute_command("EVAL", RELEASE, 1, channel.owners_name, owner, sign))

    def _return_messages(self, channel: Any, owner: str) -> None:
        returned = 0
        with channel.conn_or_acquire() as client:
            tags = _tags_of(client, channel.unacked_index_name, owner)
            for start in range(0, len(tags), CHUNK):
                returned += _return_chunk(client, channel, tags[start : start + CHUNK])
            client.execute_command("EVAL", FORGET, 1, channel.owners_name, owner)
        self._returning.discard(owner)
        if returned:
            logger.warning(
                "a process was silent for %g s: its %d unacknowledged messages were returned to their queues",
                self.lease_s,
                returned,
            )


class _Pushes:
    """Takes what kombu would push to queues, in the place of its pipeline."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def rpush(self, key: str, message: str) -> None:
        self.made.append((key, message))


def _tags_of(client: Any, index: str, owner: str) -> list[bytes]:
    """Return the tags of an owner's messages, the last one first: the first one is the next to be taken then."""
    cursor, found = 0, dict[bytes, float]()
    while True:
        cursor, pairs = client.execute_command("ZSCAN", index, cursor, "MATCH", f"{owner}.*", "COUNT", 1000)
        found.update(pairs)
        if not cursor:
            break
    return sorted(found, key=lambda tag: (found[tag], int(tag.rpartition(b".")[2])), reverse=True)


def _return_chunk(client: Any, channel: Any, tags: list[bytes]) -> int:
    entries = client.execute_command("HMGET", channel.unacked_name, *tags)
    queues: list[str] = []
    messages: list[Any] = []
    for tag, entry in zip(tags, entries, strict=True):
        if entry is None:
            continue
        pushes = _Pushes()
        try:
            message, exchange, routing_key = loads(bytes_to_str(entry))
            channel._do_restore_message(message, exchange, routing_key, pushes)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            logger.debug("%r is no message: %r", tag, exc)
            channel.qos.restore_by_tag(bytes_to_str(tag), client)
        for queue, document in pushes.made[:1]:
            queues.append(channel._key(queue))
            messages += [tag, document]
    if not queues:
        return 0
    keys = [channel.unacked_name, channel.unacked_index_name, *queues]
    return int(client.execute_command("EVAL", RETURN, len(keys), *keys, *messages))
