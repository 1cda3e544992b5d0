"""Redis data of cluster limits, and the atomic scripts through which alone it changes, one per step.

Keys, for the limit NAME and a key KEY of it:

- ``asyncworker:limits``                    hash, NAME: what was declared, JSON; for the command line
- ``asyncworker:limit:amounts``             hash, NAME: the number that ``asyncworker limits set`` gave it
- ``asyncworker:limit:held:NAME:KEY``       sorted set, permit: when its lease ends, milliseconds of Redis' own clock
- ``asyncworker:limit:holders:NAME:KEY``    hash, permit: who has it, JSON
- ``asyncworker:limit:queue:NAME:KEY``      sorted set, permit: its place in the queue
- ``asyncworker:limit:alive:NAME:KEY``      sorted set, permit that waits: until when its process is taken to be alive
- ``asyncworker:limit:last:NAME:KEY``       string, microseconds: when the last token of a rate that was taken was due

A permit's id is ``PROCESS/NUMBER``. A process listens on the channel ``asyncworker:limit:wake:PROCESS`` for permits
that another process' step has given it, and on ``asyncworker:limit:changed`` for changed numbers.
"""

__all__ = [
    "AMOUNTS",
    "CHANGED",
    "DECLARE",
    "DECLARED",
    "KEEP_PLACE",
    "RATE",
    "RENEW",
    "SEMAPHORE",
    "WAKE",
    "key_of",
    "keys_of",
]

DECLARED = "asyncworker:limits"
AMOUNTS = "asyncworker:limit:amounts"
WAKE = "asyncworker:limit:wake:"
CHANGED = "asyncworker:limit:changed"


def key_of(part: str, name: str, key: str) -> str:
    """Return the Redis key of one part of one key of a limit."""
    return f"asyncworker:limit:{part}:{name}:{key}"


def keys_of(name: str, key: str) -> list[str]:
    """Return the keys that the semaphore's script is given."""
    return [AMOUNTS, *(key_of(part, name, key) for part in ("held", "holders", "queue", "alive"))]


#: Let the command line know a limit. KEYS: DECLARED. ARGV: name, what was declared as JSON.
DECLARE = "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"

#: One step of one process: give back, leave the queue, renew, enter the queue; then whoever is first gets what is free.
#: KEYS: as of keys_of(). ARGV: name, key, declared number, lease in ms, process, what is asked as JSON.
#: Returns the permits that are this process' now, and those of ``renew`` that it has no more.
SEMAPHORE = """
local amounts, held, holders, queue, alive = unpack(KEYS)
local name, key, process = ARGV[1], ARGV[2], ARGV[5]
local lease_ms = tonumber(ARGV[4])
local asked = cjson.decode(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most = tonumber(redis.call('HGET', amounts, name) or ARGV[3])

local function forget(id)
    redis.call('ZREM', held, id)
    redis.call('HDEL', holders, id)
end
local function leave(id)
    redis.call('ZREM', queue, id)
    redis.call('ZREM', alive, id)
end
local function hold(id, holder)
    redis.call('ZADD', held, now + lease_ms, id)
    if holder then redis.call('HSET', holders, id, holder) end
end

for _, id in ipairs(asked.release) do leave(id); forget(id) end
-- Only a clock that was set back, or that of another server, leaves leases that end so late.
for _, leases in ipairs({held, alive}) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, now + 4 * lease_ms, '+inf')) do
        redis.call('ZADD', leases, now + lease_ms, id)
    end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now)) do forget(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do leave(id); redis.call('HDEL', holders, id) end

local used = redis.call('ZCARD', held)
local granted, lost = {}, {}
for _, entry in ipairs(asked.renew) do
    local id = entry[1]
    if redis.call('ZSCORE', held, id) then
        hold(id)
    elseif used < most then
        -- Redis has lost its data, or nobody has needed the place.
        hold(id, entry[2])
        used = used + 1
    else
        table.insert(lost, id)
    end
end
for _, entry in ipairs(asked.wait) do
    local id = entry[1]
    if redis.call('ZSCORE', held, id) then
        hold(id)
        table.insert(granted, id)
    else
        if not redis.call('ZSCORE', queue, id) then
            local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
            redis.call('ZADD', queue, (tonumber(last[2]) or 0) + 1, id)
            redis.call('HSET', holders, id, entry[2])
        end
        redis.call('ZADD', alive, now + lease_ms, id)
    end
end
while used < most do
    local id = redis.call('ZRANGE', queue, 0, 0)[1]
    if not id then break end
    leave(id)
    local owner = string.match(id, '^(.*)/')
    if owner == process then
        hold(id)
        used = used + 1
        table.insert(granted, id)
    elseif redis.call('PUBLISH', 'asyncworker:limit:wake:' .. owner, cjson.encode({name, key, id})) > 0 then
        hold(id)
        used = used + 1
    else
        redis.call('HDEL', holders, id) -- its process is gone
    end
end
for _, each in ipairs({held, holders, queue, alive}) do redis.call('PEXPIRE', each, lease_ms * 4) end
return {granted, lost}
"""

#: Renew permits of any semaphores. KEYS: held and holders, of each. ARGV: lease in ms, then the permits.
#: Returns of each whether it is still held: 1, or 0 for those that a step of its semaphore has to ask for.
RENEW = """
local lease_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = {}
for number = 1, #ARGV - 1 do
    local held, holders, id = KEYS[2 * number - 1], KEYS[2 * number], ARGV[number + 1]
    -- One that is there still has its place, however late it is: each step forgets what has ended before it counts.
    kept[number] = redis.call('ZADD', held, 'XX', 'CH', now + lease_ms, id)
    if kept[number] == 1 and redis.call('PTTL', held) < lease_ms * 2 then
        redis.call('PEXPIRE', held, lease_ms * 4)
        redis.call('PEXPIRE', holders, lease_ms * 4)
    end
end
return kept
"""

#: Keep the places in the queue of permits of any semaphores. KEYS: AMOUNTS, then held, holders, queue and alive of
#: each. ARGV: lease in ms, then name, declared number and permit, of each.
#: Returns of each whether it still waits rightly: 1, or 0 for those that a step of its semaphore has to ask for.
KEEP_PLACE = """
local lease_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local amounts, kept = {}, {}
for number = 1, (#ARGV - 1) / 3 do
    local held, holders, queue, alive = unpack(KEYS, 4 * number - 2, 4 * number + 1)
    local name, declared, id = unpack(ARGV, 3 * number - 1, 3 * number + 1)
    if amounts[name] == nil then amounts[name] = redis.call('HGET', KEYS[1], name) end
    local most = tonumber(amounts[name] or declared)
    kept[number] = 0
    if redis.call('ZCOUNT', held, '(' .. now, '+inf') >= most then
        kept[number] = redis.call('ZADD', alive, 'XX', 'CH', now + lease_ms, id)
    end
    if kept[number] == 1 and redis.call('PTTL', queue) < lease_ms * 2 then
        for _, each in ipairs({holders, queue, alive}) do redis.call('PEXPIRE', each, lease_ms * 4) end
    end
end
return kept
"""

#: Take tokens of a rate, up to a moment ahead. KEYS: AMOUNTS, last. ARGV: name, declared number, per_s, burst, how many
#: are wanted, how far ahead in microseconds. An interval that has changed counts from the last token on.
#: Returns how many were taken, in how many microseconds the first and from one to the next, and when to ask again.
RATE = """
local name, per_s, burst = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, ahead = tonumber(ARGV[5]), tonumber(ARGV[6])
local interval = per_s * 1e6 / tonumber(redis.call('HGET', KEYS[1], name) or ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local last = redis.call('GET', KEYS[2])
-- None is taken further ahead: only a clock that was set back, or that of another server, leaves a later one.
if last and tonumber(last) > now + 4 * math.max(ahead, 0) then last = string.format('%.0f', now) end
local earliest = now - (burst - 1) * interval
local due = last and math.max(tonumber(last) + interval, earliest) or earliest
local first = due
local taken = 0
while taken < wanted and due <= now + math.max(ahead, 0) do
    taken = taken + 1
    due = due + interval
end
if taken > 0 then
    local forget_ms = math.ceil((due - now + burst * interval) / 1000) + 1000
    redis.call('SET', KEYS[2], string.format('%.0f', due - interval), 'PX', string.format('%.0f', forget_ms))
end
return {taken, math.floor(first - now), math.ceil(interval), math.max(0, math.ceil(due - now))}
"""
