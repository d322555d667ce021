-- Reads how streams and their groups stand, without any of their entries.
-- KEYS  streams
-- Reply for each: an error of Redis; or {} where it is missing; or
--       {length, entries ever added or -1, first id, last id, bytes or -1, {name, consumers, pending, last delivered id,
--       entries read or -1, lag or -1} …}

local function infoOf(flat)
  local info = {}
  for n = 1, #flat, 2 do info[flat[n]] = flat[n + 1] end
  return info
end

-- Nothing ends a table on its way to the client, so what is unknown must be something.
local function number(value) return value or -1 end

local function survey(stream)
  local reported = redis.pcall('XINFO', 'STREAM', stream)
  if reported.err then
    if string.find(reported.err, 'no such key', 1, true) then return {} end
    return reported.err
  end
  local info = infoOf(reported)
  local bytes = redis.pcall('MEMORY', 'USAGE', stream)
  if type(bytes) ~= 'number' then bytes = -1 end
  local first = info['first-entry'] and info['first-entry'][1] or '0-0'
  local found = {info.length, number(info['entries-added']), first, info['last-generated-id'], bytes}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = infoOf(flat)
    found[#found + 1] = {
      group.name, group.consumers, group.pending, group['last-delivered-id'], number(group['entries-read']), number(group.lag),
    }
  end
  return found
end

local reply = {}
for n, stream in ipairs(KEYS) do reply[n] = survey(stream) end
return reply
