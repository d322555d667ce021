-- Stands before every script that compares ids of entries, which are two numbers.

local function before(a, b)
  local ms, seq = string.match(a, '^(%d+)-(%d+)$')
  local otherMs, otherSeq = string.match(b, '^(%d+)-(%d+)$')
  ms, otherMs = tonumber(ms), tonumber(otherMs)
  return ms < otherMs or (ms == otherMs and tonumber(seq) < tonumber(otherSeq))
end

-- The id that follows. A number that Lua does not hold exactly stays as it is: that keeps one entry more.
local function nextId(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  seq = tonumber(seq)
  return seq < 9e15 and ms .. '-' .. string.format('%.0f', seq + 1) or id
end
