-- Removes the names of consumers with which nothing is pending: a name that goes takes what is pending with it.
-- ARGV  … how long they must have been idle in milliseconds, '1' where this consumer itself takes leave
-- Reply how many went

local gone = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = {}
  for n = 1, #info, 2 do consumer[info[n]] = info[n + 1] end
  local over = consumer.idle >= tonumber(ARGV[3])
  if consumer.name == me then over = ARGV[4] == '1' end
  if over and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    gone = gone + 1
  end
end
return gone
