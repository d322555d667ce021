-- Removes a head, unless another session has taken it over since it was looked at.
--
-- KEYS  the head
-- ARGV  the session that was found at the head
-- Reply 1 when it is gone, 0 when it was left.

if redis.call('HMGET', KEYS[1], 'session')[1] ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
