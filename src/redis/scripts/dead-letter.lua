-- Moves an entry to the group's dead letters, if it is still this consumer's.
-- KEYS  … the stream of dead letters, for a waiting stream its index of first failures
-- ARGV  … the id, how many names and values are of the dead letter itself, those; then, for an entry that was trimmed, its fields as
--       they were read: where it is there, its own are taken, to the byte
-- Reply 1, also where a call before this one has moved it, or 0 when it is not this consumer's any more, or 2 when it was trimmed and its fields are not given: nothing is changed

local own, mark = tonumber(ARGV[4]), 'dead:' .. ARGV[3]
local consumer = owner(ARGV[3])
if not consumer and wasMoved(mark) then return 1 end
if not isMine(ARGV[3], consumer) then return 0 end
local fields, count = fieldsOf(ARGV[3], 5 + own, #ARGV)
if not fields then return 2 end
prove(ARGV[3])
for n = 1, own do fields[count + n] = ARGV[4 + n] end
redis.call('XADD', KEYS[3], '*', unpack(fields, 1, count + own))
remember(mark)
finish(ARGV[3])
return 1
