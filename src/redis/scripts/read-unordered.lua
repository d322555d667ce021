-- Reads what is new for an unordered group.
-- ARGV  … how many at most, how many bytes at most, and what is wanted, if not everything: see wanted.lua. Then the last entry is one
--       that a handler lacks, and nothing is read where there is none
-- Reply {new entries, 1 where there may be more, wanted or not}. Entries beyond the bytes come without their payload, and with their bytes

-- Where so many entries of the group are pending, a read ends before the first that is not wanted: that would be released, and be pending
-- until it is claimed.
local MAX_PENDING = 10000
-- A look keeps all other clients waiting.
local MAX_LOOK_BYTES = 8 * 1024 * 1024

-- How many new entries there are up to the last one that is wanted, and how many were looked at. What no handler takes is read as
-- well, to be skipped or dead-lettered, as long as nothing comes before it that has to stay.
local function reachOf(wanted, most)
  local mayPass = redis.call('XPENDING', stream, group)[1] < MAX_PENDING
  local last
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = {}
    for n = 1, #flat, 2 do info[flat[n]] = flat[n + 1] end
    if info.name == group then last = info['last-delivered-id'] end
  end
  local lacking, seen, reach, bytes, isFront = 0, 0, 0, 0, true
  for _, lacks in ipairs(wanted.lacks) do lacking = lacking + lacks end
  while lacking > 0 and seen < most and bytes < MAX_LOOK_BYTES do
    local count = math.min(32, most - seen)
    local page = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', count)
    for _, entry in ipairs(page) do
      seen, last = seen + 1, entry[1]
      for _, text in ipairs(entry[2]) do bytes = bytes + #text end
      local isWanted = counts(wanted, entry[2])
      if isWanted == false then
        if not mayPass then return reach, seen end
        isFront = false
      elseif isWanted or isFront then
        reach = seen
        if isWanted then lacking = lacking - 1 end
        if lacking == 0 then break end
      end
    end
    if #page < count then break end
  end
  return reach, seen
end

local most, maxBytes, wanted = tonumber(ARGV[3]), tonumber(ARGV[4]), wantedOf(ARGV[5])
if not wanted then return {readNew(most, maxBytes)} end
local reach, seen = reachOf(wanted, most)
if reach == 0 then return {{}, math.min(1, seen)} end
return {readNew(reach, maxBytes)}
