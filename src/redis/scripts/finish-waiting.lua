-- Acknowledges entries of a waiting stream and removes them from it in one: of what is acknowledged only, nothing is left that
-- would ever be removed.
-- KEYS  … the index of first failures
-- ARGV  … the ids
-- Reply how many

for n = 3, #ARGV, 1000 do finish(unpack(ARGV, n, math.min(n + 999, #ARGV))) end
return #ARGV - 2
