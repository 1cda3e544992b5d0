"""Acknowledgements of the Redis transport, collected and sent together; a lost connection loses none."""

from __future__ import annotations

import logging
import time
from typing import Any

from kombu.transport import virtual

from asyncworker.redis_refusals import RefusedForNow
from asyncworker.worker.guarded import RedisQoS

__all__ = ["AckBuffer", "QoS"]

logger = logging.getLogger(__name__)

#: So many are sent without waiting for the hub's next turn.
MOST_KEPT = 1000


class AckBuffer:
    """Acknowledgements that have not reached the broker yet.

    It belongs to the broker and not to a channel: what a lost connection could not take, the next one does.
    """

    def __init__(self) -> None:
        self.tags: list[str] = []

    def flush(self, channel: Any) -> None:
        """Send them; those that could not be sent stay.

        Raises:
            Exception: One of the channel's connection errors.
        """
        tags, self.tags = self.tags, []
        while tags:
            some, tags = tags[:MOST_KEPT], tags[MOST_KEPT:]
            try:
                held = self._send(channel, some)
            except BaseException:
                self.tags = some + tags + self.tags
                raise
            if not held:
                tags = [tag for tag in some + tags if not channel.owner.owns(tag)]

    def _send(self, channel: Any, tags: list[str]) -> bool:
        owner = channel.owner
        if owner is not None and not owner.lost:
            return bool(owner.acknowledge(channel, tags))
        with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipeline:
            pipeline.zrem(channel.unacked_index_key, *tags)
            pipeline.hdel(channel.unacked_key, *tags)
            pipeline.execute()
        return True


class QoS(RedisQoS):
    """The account of a channel's unacknowledged messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._renewed_at_s = time.monotonic()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message; one that was fetched in a batch is entered at the broker already."""
        if self.channel.is_fetched(delivery_tag):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)
        message.let_go_of_raw()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge with the others of this turn of the hub; where none turns, at once."""
        if not self.channel.collects_acks:
            super().ack(delivery_tag)
            return
        buffer = self.channel.acks
        buffer.tags.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        if len(buffer.tags) >= MOST_KEPT and not self.channel.closed:
            self.flush_acks()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject, after what was acknowledged before; what is not to come again is acknowledged."""
        if not requeue:
            self.ack(delivery_tag)
            return
        self.flush_acks()
        if self.channel.is_lost(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
            return
        try:
            super().reject(delivery_tag, requeue=True)
        except RefusedForNow as exc:
            logger.warning("a message is given back to its queue later: %s", exc)
            self.channel.give_back_later([delivery_tag])
            virtual.QoS.ack(self, delivery_tag)

    def flush_acks(self) -> None:
        """Send what was collected; a broker that is away gets it later."""
        try:
            self.channel.acks.flush(self.channel)
        except self.channel.connection_errors as exc:
            logger.warning("acknowledgements wait for the broker: %s", exc)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was not acknowledged, and nothing that was; once the server is back, where it is away."""
        self.flush_acks()
        self._flush()
        for tag in [tag for tag in self._delivered if self.channel.is_lost(tag)]:
            del self._delivered[tag]
        try:
            super().restore_unacked_once(stderr)
            self.channel.leave()
        except self.channel.connection_errors as exc:
            logger.warning("%d messages are given back to their queues later: %s", len(self._delivered), exc)
            self.channel.give_back_later(list(self._delivered))
            self._delivered.clear()

    def renew(self) -> None:
        """Keep the visibility timeout from passing for what is held: stock workers go by it."""
        if time.monotonic() - self._renewed_at_s < self.visibility_timeout / 3:
            return
        self._renewed_at_s = time.monotonic()
        tags = [tag for tag in self._delivered if tag not in self._dirty]
        now_s = time.time()
        with self.channel.conn_or_acquire() as client:
            for start in range(0, len(tags), MOST_KEPT):
                client.zadd(self.unacked_index_key, dict.fromkeys(tags[start : start + MOST_KEPT], now_s), xx=True)
