"""One fetch of a batch: the script that runs inside Redis, what is asked of it, and what it answers.

In one step it takes messages from the right end of the queues and enters them as unacknowledged, in kombu's own form:
hash ``unacked`` with ``[message, exchange, routing key]`` under a tag, and sorted set ``unacked_index`` with the tag's
time. So nothing is between a queue and ``unacked``, and a stock worker recovers what is left there. With the default
exchange, whose name is empty, the routing key is the queue.

The tags are ours: a message's own tag comes from whoever sent it, and returns with it when it is delivered again. Since
a tag tells its fetch, what a fetch took is found even where its answer was lost; and since it tells its owner, too, so
is what a process leaves that dies. One whose messages were returned takes nothing more under that name.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BATCH", "FETCH", "PROBE", "Fetch", "Fetched"]

#: KEYS: unacked, unacked_index, owners, then the queues in the order of their turns. ARGV: time, tag, most messages,
#: most bytes, lengths of the groups of equal rank (a JSON list), owner, then each queue's end of the entry.
FETCH = """
if ARGV[6] ~= '' and (redis.call('HGET', KEYS[3], ARGV[6]) or 'released') == 'released' then return {-1} end
local now, tag, left, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local out, number, full = {0}, 0, false

local function take(index, most)
  local taken, size = {}, 0
  while #taken < most and not full do
    local chunk = math.min(most - #taken, 50)
    local raws = redis.call('LRANGE', KEYS[index], -(#taken + chunk), -(#taken + 1))
    for at = #raws, 1, -1 do
      taken[#taken + 1] = raws[at]
      bytes = bytes - #raws[at]
      if bytes <= 0 then full = true break end
    end
    if #raws < chunk then break end
  end
  if #taken == 0 then return 0 end
  local entries, scores = {}, {}
  for _, raw in ipairs(taken) do
    number = number + 1
    local own = tag .. '.' .. number
    entries[#entries + 1] = own
    entries[#entries + 1] = '[' .. raw .. ARGV[index + 3]
    scores[#scores + 1] = now
    scores[#scores + 1] = own
    out[#out + 1] = index - 4
    out[#out + 1] = raw
  end
  redis.call('HSET', KEYS[1], unpack(entries))
  redis.call('ZADD', KEYS[2], unpack(scores))
  redis.call('LTRIM', KEYS[index], 0, -(#taken + 1))
  left = left - #taken
  return #taken
end

local first = 4
for _, length in ipairs(cjson.decode(ARGV[5])) do
  -- Queues of equal rank share what is left; what one does not need, the others get.
  local hungry = {}
  for index = first, first + length - 1 do hungry[#hungry + 1] = index end
  while #hungry > 0 and left > 0 and not full do
    local share, more = math.ceil(left / #hungry), {}
    for _, index in ipairs(hungry) do
      local most = math.min(share, left)
      if most > 0 and not full and take(index, most) == most then more[#more + 1] = index end
    end
    hungry = more
  end
  first = first + length
end
if left <= 0 or full then out[1] = 1 end
return out
"""

#: What the script needs and the stock transport does not, without a change: KEYS is a queue.
PROBE = "redis.call('LRANGE', KEYS[1], 0, 0) redis.call('LTRIM', KEYS[1], 0, -1) return 1"

#: The most messages of a batch. Lua's unpack() takes a few thousand values.
BATCH = 500
#: The most bytes of a batch; the message that passes it is the last one.
BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Fetched:
    """A message as it was taken: its queue, our tag, and itself."""

    queue: str
    tag: str
    raw: bytes


@dataclass
class Fetch:
    """One call of the script.

    Attributes:
        groups: Queues by rank: pairs of a queue's name and its key.
        limit: The most messages.
        owner: Id of whom they are to belong to; empty: nobody leaves heartbeats, and the visibility timeout counts.
        tag: The beginning of the tags.
    """

    groups: Sequence[Sequence[tuple[str, str]]]
    limit: int
    owner: str = ""
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        self.tag = f"{self.owner}.{uuid.uuid4().hex}".removeprefix(".")

    def arguments(self, unacked_key: str, unacked_index_key: str, owners_key: str, now_s: float) -> list[Any]:
        """Return what follows the script, or its digest, in the command."""
        queues = [queue for group in self.groups for queue in group]
        return [
            len(queues) + 3,
            unacked_key,
            unacked_index_key,
            owners_key,
            *(key for _name, key in queues),
            repr(now_s),
            self.tag,
            self.limit,
            BATCH_BYTES,
            json.dumps([len(group) for group in self.groups]),
            self.owner,
            *(f', "", {json.dumps(name)}]' for name, _key in queues),
        ]

    def tags(self) -> list[str]:
        """Return every tag that the script may have given."""
        return [f"{self.tag}.{number}" for number in range(1, self.limit + 1)]

    def read(self, reply: list[Any]) -> tuple[list[Fetched], bool] | None:
        """Return the messages of its answer, and whether more may be there; ``None`` where the owner was released."""
        if reply[0] < 0:
            return None
        names = [name for group in self.groups for name, _key in group]
        messages = [
            Fetched(names[reply[at]], f"{self.tag}.{number}", reply[at + 1])
            for number, at in enumerate(range(1, len(reply), 2), 1)
        ]
        return messages, bool(reply[0])
