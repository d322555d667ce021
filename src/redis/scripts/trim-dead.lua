-- Removes dead letters that are older than they are kept.
--
-- KEYS  the stream of dead letters
-- ARGV  the id to trim up to
-- Reply how many were removed; 0: none is left that may go

return trimStep(KEYS[1], ARGV[1])
