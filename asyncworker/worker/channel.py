"""The channel of the Redis transport: fetches in batches, wakes up without taking anything, keeps one client."""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

from kombu.transport import virtual
from redis.exceptions import NoScriptError, ResponseError

from asyncworker.redis_refusals import PAUSE_S, RefusedForNow, refuses_for_now
from asyncworker.worker.fast import LEASE_OPTION
from asyncworker.worker.fetch import BATCH, FETCH, PROBE, Fetch, Fetched
from asyncworker.worker.guarded import RedisChannel
from asyncworker.worker.message import SENT_AS, NotAMessage, decode_json, share_parts
from asyncworker.worker.ownership import OWNERS, Owner
from asyncworker.worker.persist import log_wait
from asyncworker.worker.unacked import AckBuffer, QoS
from asyncworker.worker.wakeup import MOST_KEYS, Waiter

__all__ = ["Channel"]

logger = logging.getLogger(__name__)

#: Of each broker that this process knows.
_acks: defaultdict[tuple[Any, ...], AckBuffer] = defaultdict(AckBuffer)
_lost: defaultdict[tuple[Any, ...], list[tuple[list[str], float]]] = defaultdict(list)
_owners: dict[tuple[Any, ...], Owner] = {}

#: A server that was frozen, or parted, may carry out so much later what a connection brought it.
LOOK_FOR_LOST_S = 600.0

#: Whether it was told that batches are not possible.
_told = False


DEFAULT_LEASE_S = 30.0


class Channel(RedisChannel):
    """A kombu channel; what it stores is what the stock one stores."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._own_client: Any = None
        self._without_acks: set[str] = set()
        self._batches: bool | None = None
        self._script_known = True
        self._fetch: Fetch | None = None
        self._owned_by: Owner | None = None
        self._tags: set[str] = set()
        self._more = True
        self._paused_until_s = 0.0
        self._waiters: dict[str, Waiter] = {}
        super().__init__(*args, **kwargs)
        info = self.connection.client
        self._broker = (info.hostname, info.port, info.virtual_host, self.global_keyprefix, self.unacked_key)

    # -- one client ----------------------------------------------------------------------------------------------

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Give the channel's client; kombu makes a new one for each operation.

        Raises:
            RefusedForNow: The server cannot write now. It may not be the one any more that its name stands for, so
                the next operation connects anew.
        """
        if client is None:
            if self._own_client is None or self._own_client.connection_pool is not self._pool:
                self._own_client = self._create_client()
            client = self._own_client
        try:
            yield client
        except ResponseError as exc:
            if not refuses_for_now(exc):
                raise
            client.connection_pool.disconnect(inuse_connections=False)
            raise RefusedForNow(str(exc)) from exc

    # -- acknowledgements ----------------------------------------------------------------------------------------

    @functools.cached_property
    def acks(self) -> AckBuffer:
        """Acknowledgements not sent yet, of every channel to this broker."""
        return _acks[self._broker]

    @property
    def collects_acks(self) -> bool:
        """Whether acknowledgements are sent later: by kombu's event loop, or by the connection after this one."""
        return self.connection is None or self.connection.hub is not None

    @property
    def owner(self) -> Owner | None:
        """This process, as the owner of what it fetches from this broker; ``None``: no batches, so nothing is owned."""
        return _owners.get(self._broker)

    def is_lost(self, delivery_tag: str) -> bool:
        """Tell whether a message has returned to its queue, since this process was silent."""
        return self._owned_by is not None and self._owned_by.lost and self._owned_by.owns(delivery_tag)

    @property
    def has_lost(self) -> bool:
        """Whether all that this channel has fetched has returned to the queues."""
        return self._owned_by is not None and self._owned_by.lost

    def is_fetched(self, delivery_tag: str) -> bool:
        """Tell whether a message was entered as unacknowledged when it was fetched."""
        return delivery_tag in self._tags

    # -- consuming -----------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *, callback: Callable[..., Any], **options: Any) -> Any:
        """Consume from a queue; one without acknowledgements is nothing for batches."""
        if no_ack:
            self._without_acks.add(queue)
        return super().basic_consume(queue, no_ack, callback=callback, **options)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if time.monotonic() < self._paused_until_s:
            return
        try:
            in_batches = self._in_batches()
        except RefusedForNow as exc:
            self._pause(exc)
            return
        if not in_batches:
            super()._brpop_start(timeout)
            return
        limit = BATCH
        if self.qos.prefetch_count:
            limit = min(limit, self.qos.can_consume_max_estimate())
        groups = self._groups() if limit else []
        if not groups:
            return
        if not self._more:
            self._wait_for_messages(groups)
            return
        fetch = Fetch(groups, limit, "" if self._owned_by is None else self._owned_by.id)
        script = ("EVALSHA", self._digest) if self._script_known else ("EVAL", FETCH)
        connection = self.client.connection
        connection.send_command(
            *script,
            *fetch.arguments(self.unacked_name, self.unacked_index_name, self.owners_name, time.time()),
        )
        self._fetch, self._in_poll, self._brpop_sent_at = fetch, connection, time.monotonic()

    def _brpop_read(self, **options: Any) -> bool:
        if self._fetch is None:
            if self._batches and not self._in_poll:
                # Nothing is owed: the server has closed the connection.
                self.client.connection.disconnect()
                raise ConnectionError("Redis closed the connection")
            return self._read_one(**options)
        messages, self._more = self._receive_batch()
        if not messages:
            raise Empty
        if self._closing:
            self._give_back(messages)
        else:
            self._deliver_batch(messages)
        return True

    def _read_one(self, **options: Any) -> bool:
        try:
            return bool(super()._brpop_read(**options))
        except ResponseError as exc:
            if not refuses_for_now(exc):
                raise
            self.client.connection.disconnect()
            self._pause(exc)
        raise Empty

    def _receive_batch(self) -> tuple[list[Fetched], bool]:
        fetch, self._fetch = self._fetch, None
        assert fetch is not None
        try:
            reply = self.client.connection.read_response()
        except NoScriptError:
            self._script_known = False
            return [], True
        except ResponseError as exc:
            if refuses_for_now(exc):
                self.client.connection.disconnect()
                self._pause(exc)
            else:
                self._refuse_batches(exc)
            return [], True
        except BaseException:
            # The server may have done it. What it took is found by its tags once there is a connection.
            self.give_back_later(fetch.tags())
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        found = fetch.read(reply)
        if found is None:
            assert self._owned_by is not None
            self._owned_by.lose()
        return found or ([], True)

    def _deliver_batch(self, messages: list[Fetched]) -> None:
        self._queue_cycle.rotate(messages[0].queue)
        for number, fetched in enumerate(messages):
            self._tags = {fetched.tag}
            try:
                self.connection._deliver(self._payload(fetched), fetched.queue)
            except BaseException:
                # The others go back with all that is unacknowledged when the channel closes.
                for other in messages[number + 1 :]:
                    virtual.QoS.append(self.qos, self.Message(self._payload(other), channel=self), other.tag)
                raise
            finally:
                self._tags = set()

    def _payload(self, fetched: Fetched) -> Any:
        try:
            payload = decode_json(fetched.raw)
            properties = payload["properties"]
            payload[SENT_AS] = properties.get("delivery_tag")
            properties["delivery_tag"] = fetched.tag
            share_parts(payload)
        except Exception as exc:
            return NotAMessage(fetched.raw, exc, fetched.tag, fetched.queue)
        return payload

    def _give_back(self, messages: list[Fetched]) -> None:
        for fetched in reversed(messages):
            self.qos.restore_by_tag(fetched.tag)

    # -- queues and keys -----------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{self.global_keyprefix}{name}"

    @property
    def unacked_name(self) -> str:
        """Name of the hash of unacknowledged messages, as the server knows it."""
        return self._key(self.unacked_key)

    @property
    def unacked_index_name(self) -> str:
        """Name of their index."""
        return self._key(self.unacked_index_key)

    @property
    def owners_name(self) -> str:
        """Name of the hash of their owners' heartbeats."""
        return self.unacked_name + OWNERS

    def _groups(self) -> list[list[tuple[str, str]]]:
        """Return the queues by rank: each priority is one; an order that is strict makes each queue one."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        ranks = [
            [(queue, self._key(self._q_for_pri(queue, priority))) for queue in queues]
            for priority in self.priority_steps
        ]
        if self.queue_order_strategy == "round_robin":
            return [rank for rank in ranks if rank]
        return [[queue] for rank in ranks for queue in rank]

    # -- whether there are batches -------------------------------------------------------------------------------

    def _in_batches(self) -> bool:
        if not self.ack_emulation or not self._without_acks.isdisjoint(self.active_queues):
            return False
        if self._batches is None:
            self._prepare()
        return bool(self._batches) and len(self.active_queues) * len(self.priority_steps) <= MOST_KEYS

    def _prepare(self) -> None:
        """Ask the server what batches need, and look for what an earlier connection has lost."""
        key = self._key(self.active_queues[0])
        try:
            with self.conn_or_acquire() as client:
                client.execute_command("EVAL", PROBE, 1, key)
                client.execute_command("BLMOVE", key, key, "RIGHT", "RIGHT", 0.001)
                self._digest = client.execute_command("SCRIPT", "LOAD", FETCH)
        except ResponseError as exc:
            if refuses_for_now(exc):
                raise
            self._refuse_batches(exc)
        else:
            self._own()
            self._batches = True
            self.recover_lost()

    def _own(self) -> None:
        if self.connection.hub is None:  # and so no timer for heartbeats
            return
        owner = _owners.get(self._broker)
        if owner is None or owner.lost or owner.left:
            lease_s = self.connection.client.transport_options.get(LEASE_OPTION, DEFAULT_LEASE_S)
            owner = _owners[self._broker] = Owner(lease_s)
        self._owned_by = owner
        owner.beat(self)

    def leave(self) -> None:
        """End to be an owner, where nothing is left that is one's own."""
        owner = self._owned_by
        if owner is not None and not owner.lost and not self.acks.tags and not _lost[self._broker]:
            owner.leave(self)

    def beat(self) -> None:
        """Show that this process lives, and return the messages of those that do not."""
        if self._owned_by is not None:
            self._owned_by.beat(self)
            self.qos.renew()

    def _refuse_batches(self, reason: ResponseError) -> None:
        global _told
        self._batches = False
        if not _told:
            _told = True
            logger.warning("Redis refuses to give messages in batches (%s): fetching one by one, as kombu does", reason)

    # -- what a lost connection leaves ---------------------------------------------------------------------------

    def give_back_later(self, tags: list[str]) -> None:
        """Return messages to their queues, of those that are found under these tags, once the server takes that."""
        if tags:
            _lost[self._broker].append((tags, time.monotonic()))

    def recover_lost(self) -> None:
        """Give back what fetches took whose answers were lost; some are carried out only after the connection ended."""
        lost = _lost[self._broker]
        for each in list(lost):
            tags, lost_at_s = each
            with self.conn_or_acquire() as client:
                found = client.execute_command("HMGET", self.unacked_name, *tags)
            taken = [tag for tag, entry in zip(tags, found, strict=True) if entry is not None]
            for tag in reversed(taken):
                self.qos.restore_by_tag(tag)
            if taken or time.monotonic() - lost_at_s > LOOK_FOR_LOST_S:
                lost.remove(each)
            if taken:
                logger.warning("%d messages that could not be taken, or given back, return to their queue", len(taken))

    def close(self) -> None:
        """Close the channel; a batch that is on its way returns to its queues."""
        for waiter in self._waiters.values():
            waiter.close()
        self._waiters.clear()
        super().close()

    # -- waking up -----------------------------------------------------------------------------------------------

    @property
    def waiters(self) -> Iterable[Waiter]:
        """Those that this channel has."""
        return self._waiters.values()

    def _wait_for_messages(self, groups: list[list[tuple[str, str]]]) -> None:
        for _queue, key in (queue for group in groups for queue in group):
            waiter = self._waiters.get(key)
            if waiter is None:
                waiter = self._waiters[key] = Waiter(key, self.async_pool.get_connection())
                self.handlers[waiter.command] = functools.partial(self._wake_up, waiter)
            self.connection.cycle.register_waiter(self, waiter)
            waiter.wait(self.brpop_timeout)

    def _wake_up(self, waiter: Waiter) -> None:
        try:
            self._more = waiter.read() or self._more
        except self.connection_errors:
            waiter.close()
            raise
        except ResponseError as exc:
            if not refuses_for_now(exc):
                raise
            waiter.close()
            self._pause(exc)
        raise Empty

    def _pause(self, reason: Exception) -> None:
        """Fetch nothing for a moment; what runs goes on. The server's name is looked up again then."""
        log_wait("fetching messages", reason)
        self._more = True
        self._paused_until_s = time.monotonic() + PAUSE_S
        self.connection.wake_later(PAUSE_S)

    def _poll_error(self, type: str, **options: Any) -> None:
        if type in ("BRPOP", "LISTEN"):
            super()._poll_error(type, **options)
        else:
            self.handlers[type]()

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if asynchronous:
            parameters["max_connections"] = max(parameters["max_connections"] or 0, MOST_KEYS + 10)
        return parameters
