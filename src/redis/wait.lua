-- Moves an entry to the group's waiting stream until its next attempt, if it is still this consumer's: there it holds up no
-- trimming, and no worker has to keep it. One that is taken from the waiting stream goes to its end again.
-- KEYS  … the waiting stream, the index of due times
-- ARGV  … the id, when it is due in milliseconds, how many names and values describe the wait, those; then, for an
--       entry that was trimmed, its fields as they were read
-- Reply 1, or 0 when it is not this consumer's any more, or 2 when it was trimmed and its fields are not given: nothing is changed

if not mine(ARGV[3]) then return 0 end
local fields, count = fieldsOf(ARGV[3], 5)
if not fields then return 2 end
-- All that may be refused, before the first entry is written: else every attempt would leave one more.
local created = redis.pcall('XGROUP', 'CREATE', KEYS[3], group, '0', 'MKSTREAM')
if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then return created end
redis.call('ZREM', KEYS[4], '0-0')
redis.call('XDEL', KEYS[3], '0-0')
redis.call('HDEL', retries, ARGV[3] .. '?')
redis.call('XACK', stream, group, '0-0')
-- The member is the next id, which is only known once the entry is there: its score is proven with another.
redis.call('ZADD', KEYS[4], ARGV[4], '0-0')
redis.call('ZREM', KEYS[4], '0-0')
local own = tonumber(ARGV[5])
for n = 1, own do fields[count + n] = ARGV[5 + n] end
local id = redis.call('XADD', KEYS[3], '*', unpack(fields, 1, count + own))
redis.call('ZADD', KEYS[4], ARGV[4], id)
finish(ARGV[3])
return 1
