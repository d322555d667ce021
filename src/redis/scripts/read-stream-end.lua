-- Reads how far a stream has got. Not XINFO from the client: its reply has the payloads of two entries.
--
-- KEYS  the stream
-- Reply {last generated id, entries ever added}; the id is empty where there is no such stream, the count where Redis has none

local reported = redis.pcall('XINFO', 'STREAM', KEYS[1])
if reported.err then
  if string.find(reported.err, 'no such key', 1, true) or string.find(reported.err, 'WRONGTYPE', 1, true) then
    return {'', ''}
  end
  return redis.error_reply(reported.err)
end
local info = {}
for n = 1, #reported, 2 do info[reported[n]] = reported[n + 1] end
return {info['last-generated-id'], tostring(info['entries-added'] or '')}
