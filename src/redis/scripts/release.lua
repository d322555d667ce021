-- Releases entries, so that another consumer may claim them. They may be many and large, and none of them is read: only from its id
-- is it known whether one was trimmed, which stays pending then until it is adopted, and told of.
-- ARGV  … how long they have been idle from here on, in milliseconds; then pairs: the id, and '1' where this delivery is not to be
--       counted
-- Reply ids that were deleted from the middle of the stream: XCLAIM has acknowledged them

local first, deleted = firstId(), {}
for n = 4, #ARGV, 2 do
  local id = ARGV[n]
  local consumer, deliveries = owner(id)
  if consumer == me and first and not precedes(id, first) then
    local count = math.max(0, deliveries - ARGV[n + 1])
    local claimed = redis.call('XCLAIM', stream, group, me, 0, id, 'IDLE', ARGV[3], 'RETRYCOUNT', count, 'JUSTID')
    if #claimed == 0 then deleted[#deleted + 1] = id end
  end
end
return deleted
