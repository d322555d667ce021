-- Stands before the scripts that trim a stream. After position.lua, entry-id.lua, stream-info.lua and soundness.lua.
--
-- KEYS  the stream, the head, the hash of what each lineage keeps, the heads of the other lineages in it
-- ARGV  this lineage, this session, the position that the head has reached at least, …

local stream, head, policies = KEYS[1], KEYS[2], KEYS[3]

local function isSound(info, found)
  local entry = found[3] or '0-0'
  return entry == '0-0' or not mismatchOf(info, entry, tonumber(found[4] or ''))
end

-- XINFO STREAM; nothing where the stream may not be trimmed: the head is not this session's, or entries are lost, of any lineage. What
-- another relay has not looked at yet must stay as it was found.
local function trimmable()
  local reported = redis.pcall('XINFO', 'STREAM', stream)
  if reported.err then
    if string.find(reported.err, 'no such key', 1, true) then return nil end
    redis.call('XINFO', 'STREAM', stream)
  end
  local info = infoOf(reported)
  local own = redis.call('HMGET', head, 'session', 'position', 'entry', 'added')
  if own[1] ~= ARGV[2] or not own[2] or compare(own[2], ARGV[3]) < 0 or not isSound(info, own) then return nil end
  local known, others = redis.call('HGETALL', policies), 0
  for n = 1, #known, 2 do
    if known[n] ~= ARGV[1] then others = others + 1 end
  end
  if others ~= #KEYS - 3 then return nil end
  for n = 4, #KEYS do
    local other = redis.call('HMGET', KEYS[n], 'session', 'position', 'entry', 'added')
    if other[1] and not isSound(info, other) then return nil end
  end
  return info
end
