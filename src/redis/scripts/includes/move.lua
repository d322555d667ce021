-- Stands before the scripts that move an entry out of its stream; after pending.lua.

-- What was moved last, in the field `moved` of the hash of failed attempts: some 150 marks, of a few calls. A repeat whose first reply
-- was lost recognises its entry by it: one that was trimmed, or is of a waiting stream, is missing in either case.
local MAX_MOVED_BYTES = 4000

local function wasMoved(mark)
  return string.find(redis.call('HGET', retries, 'moved') or '', ' ' .. mark .. ' ', 1, true) ~= nil
end

-- `marks`: divided by spaces.
local function remember(marks)
  local moved = (redis.call('HGET', retries, 'moved') or ' ') .. marks .. ' '
  redis.call('HSET', retries, 'moved', string.sub(moved, -MAX_MOVED_BYTES))
end

-- Changes nothing, and proves that what follows is permitted: without it, every attempt would write one more entry.
local function prove(id)
  -- First a command that is taken while the memory is full: then the others are.
  redis.call('HDEL', retries, id .. '?')
  redis.call('HSET', retries, id .. '?', '')
  redis.call('HDEL', retries, id .. '?')
  redis.call('HGET', retries, id .. '?')
  redis.call('XACK', stream, group, '0-0')
  if isWaiting then
    redis.call('XDEL', stream, '0-0')
    redis.call('ZREM', KEYS[#KEYS], '0-0')
  end
end

-- The fields of an entry without those of its wait, and how many names and values. `from`, `to`: where in ARGV the fields are as they
-- were read. Nothing where the entry was trimmed and these are not given.
local function fieldsOf(id, from, to)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry and to < from then return end
  local found = entry and entry[2] or {unpack(ARGV, from, to)}
  local fields, count = {}, 0
  for n = 1, #found, 2 do
    -- As many as unpack takes; what Outrider publishes has fewer than a hundred.
    if count < 7000 and string.sub(found[n], 1, 8) ~= 'waiting-' then
      fields[count + 1], fields[count + 2] = found[n], found[n + 1]
      count = count + 2
    end
  end
  return fields, count
end

-- The entries are elsewhere now. Those of a waiting stream are in the index of first failures as well: the last of KEYS.
local function finish(...)
  redis.call('XACK', stream, group, ...)
  redis.call('HDEL', retries, ...)
  if isWaiting then
    redis.call('XDEL', stream, ...)
    redis.call('ZREM', KEYS[#KEYS], ...)
  end
end
