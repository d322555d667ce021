-- Says that this consumer still works on these entries, so that nobody claims them.
-- ARGV  … the ids
-- Reply the ids that are pending with another consumer by now

local lost = {}
for n = 3, #ARGV do
  local consumer = owner(ARGV[n])
  if consumer == me then hold(ARGV[n]) elseif consumer then lost[#lost + 1] = ARGV[n] end
end
return lost
