-- Creates the group, and the stream where it is missing.
-- ARGV  … the entry after which the group begins: 0, $ or an id
-- Reply OK; the error BUSYGROUP where the group exists
--
-- A group that begins at either end is told how many entries are before it: otherwise Redis does not know before the first
-- read, and what is trimmed meanwhile could not be told from what was trimmed before.

local arguments = {'CREATE', stream, group, ARGV[3], 'MKSTREAM'}
if corrects and (ARGV[3] == '0' or ARGV[3] == '$') then
  local reported = redis.pcall('XINFO', 'STREAM', stream)
  local isMissing = reported.err and string.find(reported.err, 'no such key', 1, true)
  if isMissing or not reported.err then
    local info = isMissing and {['entries-added'] = 0, length = 0} or infoOf(reported)
    local before = info['entries-added'] - (ARGV[3] == '$' and 0 or info.length)
    arguments[6], arguments[7] = 'ENTRIESREAD', before
  end
end
local created = redis.pcall('XGROUP', unpack(arguments))
if not created.err then redis.call('HDEL', retries, 'unread') end
return created
