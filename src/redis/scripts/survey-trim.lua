-- Looks at a stream that may be trimmed, and says beside it what this lineage keeps: the others trim no more.
--
-- KEYS  the stream, the hash of what each lineage keeps
-- ARGV  this lineage, what it keeps, '1' to measure the stream, '1' to measure the memory, lineages that are retired
-- Reply {} where the stream is missing; else {time in milliseconds, entries, the first id, {lineage, what it keeps …},
--       {{group, the first id that it has not finished, how many entries or -1} …}, {bytes of the stream, used_memory, maxmemory}}.
--       Of the last three each is -1 where it was not measured, or the user may not.

local stream, policies = KEYS[1], KEYS[2]

-- Some nodes of the stream are looked at, and each consumer of its groups; neither entries nor what is pending.
local function bytesOf()
  local bytes = redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', 5)
  return type(bytes) == 'number' and bytes or -1
end

local function memory()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then return -1, -1 end
  return tonumber(string.match(info, '\nused_memory:(%d+)') or -1), tonumber(string.match(info, '\nmaxmemory:(%d+)') or -1)
end

local reported = redis.pcall('XINFO', 'STREAM', stream)
if reported.err then
  if string.find(reported.err, 'no such key', 1, true) then return {} end
  return reported
end
local info = infoOf(reported)
for n = 5, #ARGV do redis.call('HDEL', policies, ARGV[n]) end
local known = redis.call('HGETALL', policies)
local said
for n = 1, #known, 2 do
  if known[n] == ARGV[1] then said = known[n + 1] end
end
if said ~= ARGV[2] then
  local written = redis.pcall('HSET', policies, ARGV[1], ARGV[2])
  -- Trimming helps where the memory is full.
  if type(written) == 'table' and written.err and not string.find(written.err, 'OOM', 1, true) then return written end
end
local time = redis.call('TIME')
local first = info['first-entry'] and info['first-entry'][1] or '0-0'
local bytes, used, max = -1, -1, -1
if ARGV[3] == '1' then bytes = bytesOf() end
if ARGV[4] == '1' then used, max = memory() end
return {
  time[1] * 1000 + math.floor(time[2] / 1000), info.length, first,
  known, unfinishedOf(stream, info, true), {bytes, used, max},
}
