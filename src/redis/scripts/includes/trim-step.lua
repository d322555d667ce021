-- Stands before the scripts that remove what is before an id. After entry-id.lua.

-- A script keeps all other clients waiting: so many entries in one step.
local STEP, TAIL = 1000, 100

-- Removes entries before an id, in one step, and at most so many; nothing: all, in steps. Returns how many; 0: none is left that may go.
-- Whole nodes, which is cheap; the entries of the last one are removed one by one, unless so many are to stay.
local function trimStep(stream, id, most)
  local removed = redis.call('XTRIM', stream, 'MINID', '~', id, 'LIMIT', math.min(STEP, most or STEP))
  if removed > 0 or most then return removed end
  local tail = redis.call('XRANGE', stream, '-', '(' .. id, 'COUNT', TAIL)
  return #tail == 0 and 0 or redis.call('XTRIM', stream, 'MINID', nextId(tail[#tail][1]))
end
