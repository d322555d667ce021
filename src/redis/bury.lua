-- Moves an entry to the group's dead letters, if it is still this consumer's.
-- KEYS  … the stream of dead letters
-- ARGV  … the id, how many names and values are of the dead letter itself, those; then, for an entry that was trimmed, its fields as
--       they were read: where it is there, its own are taken, to the byte
-- Reply 1, or 0 when it is not this consumer's any more, or 2 when it was trimmed and its fields are not given: nothing is changed

if not mine(ARGV[3]) then return 0 end
local fields, count = fieldsOf(ARGV[3], 4)
if not fields then return 2 end
-- Nothing, to prove that what follows is permitted: without it, every attempt would leave one more dead letter.
redis.call('HDEL', retries, ARGV[3] .. '?')
redis.call('XACK', stream, group, '0-0')
if isWaiting then redis.call('XDEL', stream, '0-0') end
local own = tonumber(ARGV[4])
for n = 1, own do fields[count + n] = ARGV[4 + n] end
redis.call('XADD', KEYS[3], '*', unpack(fields, 1, count + own))
finish(ARGV[3])
return 1
