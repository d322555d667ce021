-- Reads what is new for an unordered group.
-- ARGV  … how many at most, how many bytes at most
-- Reply {new entries, 1 where there may be more}. Entries beyond the bytes come without their payload, and with their bytes

return {readNew(tonumber(ARGV[3]), tonumber(ARGV[4]))}
