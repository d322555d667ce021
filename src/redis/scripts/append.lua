-- One atomic, chained, idempotent append of a batch to one stream.
--
-- KEYS  the stream, the head (a hash: position, event, entry, session, added)
-- ARGV  this session (empty: look at the head whichever session it bears, and write nothing),
--       the session expected at the head, the previous position of the chain,
--       then per event: position, event id, shape, values (see src/event/shape.ts); ^ is the shape of the event before
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
-- `compare` comes from position.lua, `mismatchOf` from soundness.lua.

local stream, head = KEYS[1], KEYS[2]
local session, expected, previous = ARGV[1], ARGV[2], ARGV[3]
local ZERO = '00000000-0000000000000000-00000000'

local function reply(status, at, appended, skipped, err)
  return {status, at.position, at.event, at.entry, at.session, tostring(appended), tostring(skipped), err or ''}
end

local at = {position = ZERO, event = '', entry = '0-0', session = ''}

-- What a shape says: the entry's fields with their constants, and where id, position and each value go.
local shapes = {}

local function read(text)
  local shape = {fields = {}, values = {}, id = {}, position = {}}
  for line in string.gmatch(text, '[^\n]+') do
    local name, kind, rest = string.match(line, '^([a-z0-9]+)([=<]?)(.*)$')
    if not name or (kind == '' and rest ~= '') then return nil end
    local at = #shape.fields + 2
    shape.fields[at - 1], shape.fields[at] = name, rest
    local places = kind == '' and shape.values or kind == '<' and (rest == 'id' or rest == 'position') and shape[rest]
    if places then places[#places + 1] = at elseif kind == '<' then return nil end
  end
  if #shape.fields == 0 or #shape.fields > 1000 then return nil end
  shape.count = #shape.values
  shapes[text] = shape
  return shape
end

-- 0. Every event, before any write.
local ARGV = ARGV
local i, last, shape = 4, #ARGV, nil
if session == '' and last >= 4 then return reply('INVALID', at, 0, 0, 'events without a session') end
while i <= last do
  local text = ARGV[i + 2]
  if text ~= '^' then shape = text and (shapes[text] or read(text)) end
  if not shape or i + 2 + shape.count > last or #ARGV[i] ~= 34 then
    return reply('INVALID', at, 0, 0, 'malformed event at argument ' .. i)
  end
  i = i + 3 + shape.count
end

local stored = redis.pcall('HMGET', head, 'position', 'event', 'entry', 'session', 'added')
if stored.err then return reply('ERROR', at, 0, 0, stored.err) end
local exists = stored[1]
if exists then
  at = {position = stored[1], event = stored[2] or '', entry = stored[3] or '0-0', session = stored[4] or ''}
end

-- 1. Whose head is it?
if exists and session ~= '' and at.session ~= session and at.session ~= expected then return reply('OTHER', at, 0, 0) end

-- 2. Is everything there that this chain builds on?
if compare(at.position, previous) < 0 then return reply('BEHIND', at, 0, 0) end
-- A stream of which every entry was added to another one has no memory of those that were trimmed.
local function isCopied(info)
  if info['entries-added'] ~= info['length'] or info['max-deleted-entry-id'] ~= '0-0' then return false end
  local entries = redis.pcall('XRANGE', stream, at.entry, at.entry)
  local fields = entries[1] and entries[1][2] or {}
  for k = 1, #fields, 2 do
    if fields[k] == 'id' then return fields[k + 1] == at.event end
  end
  return false
end

-- `added`: entries ever added to the stream; Redis 6.2 does not count them.
local added
local reported = redis.pcall('XINFO', 'STREAM', stream)
if reported.err then
  if not string.find(reported.err, 'no such key', 1, true) then return reply('ERROR', at, 0, 0, reported.err) end
  if at.entry ~= '0-0' then return reply('BEHIND', at, 0, 0, 'the stream is gone') end
  added = 0
else
  local info = {}
  for k = 1, #reported, 2 do info[reported[k]] = reported[k + 1] end
  added = info['entries-added']
  if at.entry ~= '0-0' then
    local was = tonumber(stored[5] or '')
    local mismatch = mismatchOf(info, at.entry, was)
    if mismatch and added and was and added < was and isCopied(info) then
      mismatch = 'the stream was copied entry by entry, so its counters begin at zero; '
        .. 'trimmed events may be put back, which doubles them and loses nothing'
    end
    if mismatch then return reply('BEHIND', at, 0, 0, mismatch) end
  end
end

if last < 4 and (session == '' or not exists or at.session == session) then return reply('OK', at, 0, 0) end

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
  if ARGV[i + 2] ~= '^' then shape = shapes[ARGV[i + 2]] end
  i = i + 3 + shape.count
end
if i <= last and not met then return reply('DIVERGED', at, 0, 0) end

-- 3. The first write leaves the head where it is: it proves permission, role and memory before the first XADD.
local proof = redis.pcall('HSET', head, 'position', at.position, 'event', at.event, 'entry', at.entry, 'session', session)
if type(proof) == 'table' and proof.err then return reply('ERROR', at, 0, skipped, proof.err) end
at.session = session

-- 4. and 5. Append, then move the head to the last success.
local appended, failure = 0, nil
while i <= last do
  if ARGV[i + 2] ~= '^' then shape = shapes[ARGV[i + 2]] end
  local fields, values, count = shape.fields, shape.values, shape.count
  for k = 1, count do fields[values[k]] = ARGV[i + 2 + k] end
  for k = 1, #shape.id do fields[shape.id[k]] = ARGV[i + 1] end
  for k = 1, #shape.position do fields[shape.position[k]] = ARGV[i] end
  local entry = redis.pcall('XADD', stream, '*', unpack(fields))
  if type(entry) == 'table' and entry.err then
    failure = entry.err
    break
  end
  at.position, at.event, at.entry = ARGV[i], ARGV[i + 1], entry
  appended = appended + 1
  i = i + 3 + count
end
if appended > 0 then
  redis.call('HSET', head, 'position', at.position, 'event', at.event, 'entry', at.entry,
    'added', added and added + appended or '')
end
if failure then return reply('ERROR', at, appended, skipped, failure) end
return reply('OK', at, appended, skipped)
