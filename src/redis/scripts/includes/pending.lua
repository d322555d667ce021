-- Stands before every script that acts on entries which are pending with a consumer of a group.
-- KEYS  the stream, the hash of failed attempts
-- ARGV  the group, the consumer

local stream, retries, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

-- XNACK FATAL (Redis 8.8) sets the count of deliveries to 2^63-1, which neither a reply nor RETRYCOUNT can carry: see NACKED in
-- group.ts.
local function counted(deliveries)
  return math.max(0, math.min(deliveries, 2147483647))
end

-- Whose it is, and how often it was delivered since its last outcome. Nothing when it is not pending; the owner is empty after
-- XNACK.
local function owner(id)
  local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if found then return found[2], counted(found[4]) end
end

-- Whether entries are pending with no consumer: XNACK leaves them so, and they have no idle time by which to find them.
local function hasUnowned(summary)
  local owned = 0
  for _, consumer in ipairs(summary[4] or {}) do owned = owned + tonumber(consumer[2]) end
  return summary[1] > owned
end

-- A stream's name never begins so: see src/event/names.ts.
local isWaiting = string.sub(stream, 1, 9) == 'outrider:'

-- Whether it is ours to deal with. What was trimmed, and then acknowledged for that by the consumer that met it first, still is: this
-- consumer has it, and no other will. An entry that is missing in a waiting stream was dealt with: these are not trimmed. `consumer`: its
-- owner.
local function isMine(id, consumer)
  return consumer == me or (not consumer and not isWaiting and not redis.call('XRANGE', stream, id, id)[1])
end

local function mine(id)
  return isMine(id, owner(id))
end

local function precedes(id, other)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  local otherMs, otherSeq = string.match(other, '(%d+)-(%d+)')
  if ms ~= otherMs then return tonumber(ms) < tonumber(otherMs) end
  return tonumber(seq) < tonumber(otherSeq)
end

-- The id of the stream's first entry: what precedes it was trimmed. No command tells an id without the entry, so it is asked for once,
-- where a script has many entries to look at.
local function firstId()
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return first and first[1]
end

-- Makes it ours, as if delivered just now. JUSTID: the count of deliveries stays unless the last arguments set it. What was
-- trimmed is left as it is, because from Redis 7 on XCLAIM would drop it: pending, it is adopted one day, and told of. Whether it is
-- there is asked by reading it, with its payload: XCLAIM itself tells it too late.
local function hold(id, ...)
  if redis.call('XRANGE', stream, id, id)[1] then
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID', ...)
  end
end

-- An entry without its payload and its headers: these are loaded when they are needed, see load-payloads.lua. Then the bytes that all
-- its names and values have.
local needed = {
  id = true, source = true, type = true, subject = true, time = true, schemaversion = true,
  ['waiting-attempts'] = true, ['waiting-since'] = true, ['waiting-entry'] = true,
}
local function envelopeOf(fields)
  local envelope, size = {}, 0
  for n = 1, #fields, 2 do
    local name, value = fields[n], fields[n + 1]
    size = size + #name + #value
    if needed[name] then
      envelope[#envelope + 1], envelope[#envelope + 2] = name, value
    end
  end
  return envelope, size
end

-- It is ours from here on, with what is known of it; `known`: the entry, where it was read. An entry that was trimmed while it was pending is acknowledged:
-- no consumer can ever do it; it comes without fields, to be counted.
local function adopt(id, deliveries, known)
  local entry = known or redis.call('XRANGE', stream, id, id)[1]
  if entry then
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
    local envelope, size = envelopeOf(entry[2])
    return {id, counted(deliveries), redis.call('HGET', retries, id) or '', envelope, size}
  end
  redis.call('XACK', stream, group, id)
  redis.call('HDEL', retries, id)
  return {id, counted(deliveries)}
end
