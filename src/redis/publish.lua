-- One atomic, chained, idempotent append of a batch to one stream.
--
-- KEYS  the stream, the head (a hash: position, event, entry, session)
-- ARGV  this session, the session expected at the head, the previous position of the chain,
--       then per event: position, event id, number of arguments n, n arguments (field, value, field, value …)
--
-- Reply {status, position, event, entry, session, appended, skipped, error}: the head as it stands now, and
--   OK        every event is in the stream
--   OTHER     the head belongs to another session; nothing written
--   BEHIND    head or stream have lost what this chain builds on; nothing written
--   DIVERGED  the batch holds another event than the head's at its position, or passes it by; nothing written
--   ERROR     Redis refused: `appended` events were written before, the head covers exactly those
--   INVALID   malformed arguments; nothing written
--
-- Without events it is a probe: it writes only to take over a head from the expected session.
-- `compare` comes from position.lua.

local stream, head = KEYS[1], KEYS[2]
local session, expected, previous = ARGV[1], ARGV[2], ARGV[3]
local ZERO = '00000000-0000000000000000-00000000'

local function reply(status, at, appended, skipped, err)
  return {status, at.position, at.event, at.entry, at.session, tostring(appended), tostring(skipped), err or ''}
end

local at = {position = ZERO, event = '', entry = '0-0', session = ''}

-- 0. Every count, before any write.
local i, last = 4, #ARGV
while i <= last do
  local n = tonumber(ARGV[i + 2])
  if not n or n < 2 or n % 2 ~= 0 or n > 1000 or i + 2 + n > last or #ARGV[i] ~= 34 then
    return reply('INVALID', at, 0, 0, 'malformed event at argument ' .. i)
  end
  i = i + 3 + n
end

local stored = redis.pcall('HMGET', head, 'position', 'event', 'entry', 'session')
if stored.err then return reply('ERROR', at, 0, 0, stored.err) end
local exists = stored[1]
if exists then
  at = {position = stored[1], event = stored[2] or '', entry = stored[3] or '0-0', session = stored[4] or ''}
end

-- 1. Whose head is it?
if exists and at.session ~= session and at.session ~= expected then return reply('OTHER', at, 0, 0) end

-- 2. Is everything there that this chain builds on?
if compare(at.position, previous) < 0 then return reply('BEHIND', at, 0, 0) end
local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return reply('ERROR', at, 0, 0, info.err) end
  if at.entry ~= '0-0' then return reply('BEHIND', at, 0, 0, 'the stream is gone') end
elseif at.entry ~= '0-0' then
  local generated = '0-0'
  for k = 1, #info, 2 do
    if info[k] == 'last-generated-id' then generated = info[k + 1] end
  end
  local ms, seq = string.match(generated, '^(%d+)-(%d+)$')
  local headMs, headSeq = string.match(at.entry, '^(%d+)-(%d+)$')
  ms, seq, headMs, headSeq = tonumber(ms), tonumber(seq), tonumber(headMs), tonumber(headSeq)
  if ms < headMs or (ms == headMs and seq < headSeq) then
    return reply('BEHIND', at, 0, 0, 'the stream ends before the entry that the head names')
  end
end

if last < 4 and (not exists or at.session == session) then return reply('OK', at, 0, 0) end

-- A replay that covers the head's own position must meet its event there: otherwise what it skips is not what it knows.
i = 4
local skipped, met = 0, compare(previous, at.position) == 0
while i <= last do
  local order = compare(ARGV[i], at.position)
  if order > 0 then break end
  if order == 0 then
    if ARGV[i + 1] ~= at.event then return reply('DIVERGED', at, 0, 0) end
    met = true
  end
  skipped = skipped + 1
  i = i + 3 + tonumber(ARGV[i + 2])
end
if i <= last and not met then return reply('DIVERGED', at, 0, 0) end

-- 3. The first write leaves the head where it is: it proves permission, role and memory before the first XADD.
local proof = redis.pcall('HSET', head, 'position', at.position, 'event', at.event, 'entry', at.entry, 'session', session)
if type(proof) == 'table' and proof.err then return reply('ERROR', at, 0, skipped, proof.err) end
at.session = session

-- 4. and 5. Append, then move the head to the last success.
local appended, failure = 0, nil
while i <= last do
  local n = tonumber(ARGV[i + 2])
  local entry = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 3, i + 2 + n))
  if type(entry) == 'table' and entry.err then
    failure = entry.err
    break
  end
  at.position, at.event, at.entry = ARGV[i], ARGV[i + 1], entry
  appended = appended + 1
  i = i + 3 + n
end
if appended > 0 then
  redis.call('HSET', head, 'position', at.position, 'event', at.event, 'entry', at.entry)
end
if failure then return reply('ERROR', at, appended, skipped, failure) end
return reply('OK', at, appended, skipped)
