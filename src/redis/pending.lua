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

-- Whether it is ours to deal with. What was trimmed, and then acknowledged for that by whoever met it first, still is: this
-- consumer has it, and nobody else ever will.
local function mine(id)
  local consumer = owner(id)
  return consumer == me or (not consumer and not redis.call('XRANGE', stream, id, id)[1])
end

-- Makes it ours, as if delivered just now. JUSTID: the count of deliveries stays unless the last arguments set it. What was
-- trimmed is left as it is, because from Redis 7 on XCLAIM would drop it: pending, it is adopted one day, and told of.
local function hold(id, ...)
  if redis.call('XRANGE', stream, id, id)[1] then
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID', ...)
  end
end

-- An entry without what may be large in it, above all its payload: that is loaded when it is needed, see load.lua. Then the bytes
-- that all its names and values have.
local needed = {id = true, source = true, type = true, subject = true, time = true, schemaversion = true}
local function envelopeOf(fields)
  local envelope, size = {}, 0
  for n = 1, #fields, 2 do
    local name, value = fields[n], fields[n + 1]
    size = size + #name + #value
    if needed[name] or (name ~= 'data' and #value <= 1024) then
      envelope[#envelope + 1], envelope[#envelope + 2] = name, value
    end
  end
  return envelope, size
end

-- It is ours from here on, with what is known of it. An entry that was trimmed while it was pending is acknowledged:
-- no consumer can ever do it; it comes without fields, to be counted.
local function adopt(id, deliveries)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    hold(id)
    local envelope, size = envelopeOf(entry[2])
    return {id, counted(deliveries), redis.call('HGET', retries, id) or '', envelope, size}
  end
  redis.call('XACK', stream, group, id)
  redis.call('HDEL', retries, id)
  return {id, counted(deliveries)}
end
