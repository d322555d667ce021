-- Moves an entry to the group's dead letters, if it is still this consumer's.
-- KEYS  … the stream of dead letters
-- ARGV  … the id, then the fields of the dead letter
-- Reply 1, or 0 when it is not this consumer's any more

if not mine(ARGV[3]) then return 0 end
-- Nothing, to prove that what follows is permitted: without it, every attempt would leave one more dead letter.
redis.call('HDEL', retries, ARGV[3] .. '?')
redis.call('XACK', stream, group, '0-0')
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 4))
redis.call('XACK', stream, group, ARGV[3])
redis.call('HDEL', retries, ARGV[3])
return 1
