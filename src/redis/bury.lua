-- Moves an entry to the group's dead letters, if it is still this consumer's.
-- KEYS  … the stream of dead letters
-- ARGV  … the id, how many names and values are of the dead letter itself, those; then, for an entry that was trimmed, its fields as
--       they were read: where it is there, its own are taken, to the byte
-- Reply 1, or 0 when it is not this consumer's any more, or 2 when it was trimmed and its fields are not given: nothing is changed

-- Whether an entry is among the dead letters of the last minute: a reply was lost, and this is the repeat. What is pending no more
-- cannot tell, where it was trimmed, or is of a waiting stream. One letter at a time, because it may be large.
local function isBuried(origin)
  local from = (redis.call('TIME')[1] - 60) * 1000
  for _ = 1, 1000 do
    local letter = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', 1)[1]
    if not letter then return false end
    for n = 1, #letter[2], 2 do
      if letter[2][n] == 'deadentry' and letter[2][n + 1] == origin then return true end
    end
    from = '(' .. letter[1]
  end
  return false
end

local own = tonumber(ARGV[4])
if not owner(ARGV[3]) then
  for n = 5, 4 + own, 2 do
    if ARGV[n] == 'deadentry' and isBuried(ARGV[n + 1]) then return 1 end
  end
end
if not mine(ARGV[3]) then return 0 end
local fields, count = fieldsOf(ARGV[3], 4)
if not fields then return 2 end
-- Nothing, to prove that what follows is permitted: without it, every attempt would leave one more dead letter.
redis.call('HDEL', retries, ARGV[3] .. '?')
redis.call('XACK', stream, group, '0-0')
if isWaiting then redis.call('XDEL', stream, '0-0') end
for n = 1, own do fields[count + n] = ARGV[4 + n] end
redis.call('XADD', KEYS[3], '*', unpack(fields, 1, count + own))
finish(ARGV[3])
return 1
