-- Proves that a head has reached a position, and writes beside it, so that a WAIT or WAITAOF which follows on this
-- connection covers everything up to there: on a connection that has written nothing they return at once.
--
-- KEYS  the head
-- ARGV  this session, the position
-- Reply OK, OTHER (the head belongs to another session) or BEHIND. `compare` comes from position.lua.

local at = redis.call('HMGET', KEYS[1], 'position', 'session')
if not at[1] then return 'BEHIND' end
if at[2] ~= ARGV[1] then return 'OTHER' end
if compare(at[1], ARGV[2]) < 0 then return 'BEHIND' end
redis.call('HSET', KEYS[1], 'durable', ARGV[2])
return 'OK'
