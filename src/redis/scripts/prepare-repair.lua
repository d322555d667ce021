-- Moves the head of a stream to the place that a repair appends at, and makes it this session's.
--
-- KEYS  the stream, the head
-- ARGV  this session; session, position and entry that were found at the head (an empty session: there was none); the place;
--       what read-stream-end.lua said of the stream before the head was looked at
-- Reply {status, entry}: the entry that the head names now, and
--   OK     the head is at the place
--   MOVED  the head is not as it was found, or the stream has lost entries since; nothing written
--   TYPE   the stream's key holds another type; nothing written
-- `before` comes from entry-id.lua.

local stream, head = KEYS[1], KEYS[2]
local found = redis.call('HMGET', head, 'session', 'position', 'entry')
if (found[1] or '') ~= ARGV[2] then return {'MOVED', ''} end
if found[2] and (found[2] ~= ARGV[3] or (found[3] or '0-0') ~= ARGV[4]) then return {'MOVED', ''} end

-- What the stream holds counts as known: a stream that is gone, or another one, is noticed from here on.
local info = {['last-generated-id'] = '0-0', ['entries-added'] = ''}
local reported = redis.pcall('XINFO', 'STREAM', stream)
if not reported.err then
  for n = 1, #reported, 2 do info[reported[n]] = reported[n + 1] end
elseif string.find(reported.err, 'WRONGTYPE', 1, true) then
  return {'TYPE', ''}
elseif not string.find(reported.err, 'no such key', 1, true) then
  return redis.error_reply(reported.err)
end
-- The ids that it had were read since. A stream that was deleted meanwhile has none of them.
local entry, last, added = info['last-generated-id'], ARGV[6], tonumber(ARGV[7])
if last ~= '' and (reported.err or before(entry, last)) then return {'MOVED', ''} end
if added and tonumber(info['entries-added'] or added) < added then return {'MOVED', ''} end
redis.call('HSET', head, 'position', ARGV[5], 'event', '', 'entry', entry, 'session', ARGV[1],
  'added', tostring(info['entries-added'] or ''))
return {'OK', entry}
