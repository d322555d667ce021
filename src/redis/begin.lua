-- Counts one more delivery of an entry that was taken from another consumer, before it is run: if that kills this worker
-- as well, the next one knows.
-- ARGV  … the id
-- Reply 1, or 0 when it is not this consumer's any more

local consumer, deliveries = owner(ARGV[3])
if consumer ~= me then return 0 end
hold(ARGV[3], 'RETRYCOUNT', deliveries + 1)
return 1
