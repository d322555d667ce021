-- Removes entries that all groups of a stream have finished. It asks for that again, so that nothing happens in between.
--
-- KEYS  see trimmable.lua
-- ARGV  … the id to trim up to, how many entries at most or '' for all; then the groups that are known: name, the first id that it had
--       not finished
-- Reply {status, how many entries were removed}: 0 when none is left that may go
--   OK     trimmed
--   MOVED  the stream may not be trimmed; nothing removed

local info = trimmable()
if not info then return {'MOVED', 0} end

local floor, found = ARGV[4], {}
for _, group in ipairs(unfinishedOf(stream, info)) do
  found[group[1]] = true
  if before(group[2], floor) then floor = group[2] end
end
for n = 6, #ARGV, 2 do
  if not found[ARGV[n]] and before(ARGV[n + 1], floor) then floor = ARGV[n + 1] end
end
return {'OK', trimStep(stream, floor, tonumber(ARGV[5]))}
