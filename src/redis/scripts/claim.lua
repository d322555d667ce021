-- Claims entries that no consumer has touched for too long, and those that have no owner.
-- ARGV  … the idle time in milliseconds, how many at most, the id to begin at, whose they must be or '', and what is wanted, if not
--       everything: see wanted.lua. Then it ends when no handler lacks any more
-- Reply {{id, deliveries, failed attempts, fields without the payload, bytes} …, {id, deliveries} for one that was trimmed; where to
--       continue, '' at the end; the first entry that is not wanted, or '', and the places of the handlers of such entries}

local idle, most, from, whose = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local wanted = wantedOf(ARGV[7])
-- XNACK leaves entries without an owner and without an idle time by which to find them.
local all = whose == '' and hasUnowned(redis.call('XPENDING', stream, group))
local found, skipped, full, isFull = {}, '', {}, {}
local lacking = 0
for _, lacks in ipairs(wanted and wanted.lacks or {1}) do lacking = lacking + lacks end

local function pageOf(count)
  if all then return redis.call('XPENDING', stream, group, from, '+', count) end
  if whose ~= '' then return redis.call('XPENDING', stream, group, 'IDLE', idle, from, '+', count, whose) end
  return redis.call('XPENDING', stream, group, 'IDLE', idle, from, '+', count)
end

-- A script keeps all others waiting, so it ends after so many pages, and the next call continues.
for _ = 1, 10 do
  local count = (all or wanted) and 100 or most - #found
  local page = pageOf(count)
  for _, pending in ipairs(page) do
    local id = pending[1]
    if not all or pending[2] == '' or pending[3] >= idle then
      local entry = wanted and redis.call('XRANGE', stream, id, id)[1]
      local isWanted, place = true, nil
      if entry then isWanted, place = counts(wanted, entry[2]) end
      if isWanted == false then
        if skipped == '' then skipped = id end
        if not isFull[place] then
          isFull[place], full[#full + 1] = true, place
        end
      else
        found[#found + 1] = adopt(id, pending[4], entry or nil)
        if place then lacking = lacking - 1 end
      end
    end
    from = '(' .. id
    if #found == most or lacking == 0 then return {found, from, skipped, full} end
  end
  if #page < count then return {found, '', skipped, full} end
end
return {found, from, skipped, full}
