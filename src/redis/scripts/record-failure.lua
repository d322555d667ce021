-- Records a failed attempt, which is an outcome: the count of deliveries starts again with the attempt to come.
-- ARGV  … the id, what to remember of the attempts
-- Reply 1, or 0 when it is not this consumer's any more

if owner(ARGV[3]) ~= me then return 0 end
redis.call('HSET', retries, ARGV[3], ARGV[4])
hold(ARGV[3], 'RETRYCOUNT', 1)
return 1
