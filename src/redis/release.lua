-- Lets go of entries, so that another consumer may claim them at once.
-- ARGV  … pairs: the id, and '1' where this delivery is not to be counted

for n = 3, #ARGV, 2 do
  local consumer, deliveries = owner(ARGV[n])
  if consumer == me then
    local count = math.max(0, deliveries - ARGV[n + 1])
    -- An hour idle is more than any consumer waits for.
    hold(ARGV[n], 'IDLE', 3600000, 'RETRYCOUNT', count)
  end
end
return 1
