-- Removes a head, unless it has changed since it was looked at: a call that arrives late meets a newer one.
--
-- KEYS  the head
-- ARGV  the session and the entry that were found at the head
-- Reply 1 when it is gone, 0 when it was left.

local found = redis.call('HMGET', KEYS[1], 'session', 'entry')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
