-- Counts one more delivery of an entry that was taken from another consumer, before it is run: if that kills this worker
-- as well, the next one knows.
-- ARGV  … the id
-- Reply 1, or 0 when it is not this consumer's any more

if not mine(ARGV[3]) then return 0 end
local _, deliveries = owner(ARGV[3])
if deliveries then hold(ARGV[3], 'RETRYCOUNT', deliveries + 1) end
return 1
