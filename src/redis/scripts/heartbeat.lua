-- Says that this consumer still works on these entries, so that no other claims them. It reads none of them: only from its id is it
-- known whether one was trimmed, which stays pending then until it is adopted, and told of.
-- ARGV  … the ids
-- Reply {ids that are pending with another consumer, ids that were deleted from the middle of the stream: XCLAIM has acknowledged them}

local first = firstId()
local lost, deleted = {}, {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local consumer = owner(id)
  if consumer and consumer ~= me then
    lost[#lost + 1] = id
  elseif consumer and first and not precedes(id, first) then
    if #redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID') == 0 then deleted[#deleted + 1] = id end
  end
end
return {lost, deleted}
