-- Puts dead letters back into their stream and removes them, each at once and only if it still exists: however often this
-- is called, and by however many, a letter goes back once.
--
-- KEYS  the stream, the stream of dead letters, that of the ids of those that were put back: the relay must learn of each before a repair
--       leaves out what was trimmed, since a letter that is put back is behind events that came later
-- ARGV  ids of dead letters
-- Reply {done, gone, kept, error}
--   done   put back and removed
--   gone   not there any more: replayed or discarded by someone else
--   kept   left where they are: nothing in them but the fields below, or more fields than a script can hand on
--   error  why Redis refused the next one, or an empty string; what is counted was done

local stream, dead, replayed = KEYS[1], KEYS[2], KEYS[3]
-- A week, in milliseconds.
local KEPT_MS = 604800000
local OWN = {deadreason = true, deaderror = true, deadattempts = true, deadtime = true, deadentry = true}
-- The values of one call lie on Lua's stack, which holds 8000.
local MOST_VALUES = 7000

local done, gone, kept = 0, 0, 0
local function reply(err) return {done, gone, kept, err or ''} end
local function refusal(answer) return type(answer) == 'table' and answer.err end

-- A letter that could be put back but not removed would go back again at every call. So both commands prove first that
-- they are permitted, and that the server has memory and takes writes, without changing anything: XADD never takes the
-- id 0-0, and says so after all else that it may refuse for.
local proof = refusal(redis.pcall('XADD', stream, '0-0', 'id', ''))
if proof and not string.find(proof, 'must be greater than 0-0', 1, true) then return reply(proof) end
proof = refusal(redis.pcall('XDEL', dead, '0-0'))
if proof then return reply(proof) end

for _, id in ipairs(ARGV) do
  local found = redis.pcall('XRANGE', dead, id, id)
  if found.err then return reply(found.err) end
  if not found[1] then
    gone = gone + 1
  else
    local fields, original = found[1][2], {}
    for i = 1, #fields, 2 do
      if not OWN[fields[i]] then
        original[#original + 1] = fields[i]
        original[#original + 1] = fields[i + 1]
      end
    end
    if #original == 0 or #original > MOST_VALUES then
      kept = kept + 1
    else
      local named = {}
      for i = 1, #original, 2 do named[original[i]] = original[i + 1] end
      -- The letter is no younger than now.
      local since = string.format('%.0f', math.max(0, string.match(id, '^%d+') - KEPT_MS))
      local refused = refusal(
        redis.pcall('XADD', replayed, 'MINID', '~', since, '*', 'id', named.id or '', 'source', named.source or ''))
      if refused then return reply(refused) end
      -- Of what is left to refuse: the key is no stream, or its ids are exhausted. XDEL has been proven.
      refused = refusal(redis.pcall('XADD', stream, '*', unpack(original)))
      if refused then return reply(refused) end
      redis.call('XDEL', dead, id)
      done = done + 1
    end
  end
end
return reply()
