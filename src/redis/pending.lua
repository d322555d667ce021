-- Stands before every script that acts on entries which are pending with a consumer of a group.
-- KEYS  the stream, the hash of failed attempts
-- ARGV  the group, the consumer

local stream, retries, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

-- Whose it is, and how often it was delivered since its last outcome. Nothing when it is pending with nobody.
local function owner(id)
  local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if found then return found[2], found[4] end
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

-- It is ours from here on, with what is known of it. An entry that was trimmed while it was pending is acknowledged:
-- no consumer can ever do it; it comes without fields, to be counted.
local function adopt(id, deliveries)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then
    hold(id)
    return {id, deliveries, redis.call('HGET', retries, id) or '', entry[2]}
  end
  redis.call('XACK', stream, group, id)
  redis.call('HDEL', retries, id)
  return {id, deliveries}
end
