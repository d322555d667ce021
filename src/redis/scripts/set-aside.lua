-- Moves entries to the group's waiting stream until their next attempts, those of them that are still this consumer's: there they hold up
-- no trimming, and no worker has to keep them. One that is taken from the waiting stream goes to its end again.
-- KEYS  … the waiting stream, the index of due times, that of first failures
-- ARGV  … for each entry: the id, when it is due in milliseconds, how many names and values describe the wait, those; then, for an
--       entry that was trimmed, how many names and values it had as they were read, or 0, those
-- Reply for each 1, also where a call before this one has moved it, or 0 when it is not this consumer's any more, or 2 when it was trimmed
--       and its fields are not given: nothing of it is changed

local replies, entries = {}, {}
local at = 3
while at <= #ARGV do
  local id, own = ARGV[at], tonumber(ARGV[at + 2])
  local read = at + 4 + own
  local to = read - 1 + tonumber(ARGV[read - 1])
  local consumer, reply = owner(id), nil
  if not consumer and wasMoved('aside:' .. id) then
    reply = 1
  elseif not isMine(id, consumer) then
    reply = 0
  else
    local fields, count = fieldsOf(id, read, to)
    reply = fields and 1 or 2
    if fields then entries[#entries + 1] = {id = id, due = ARGV[at + 1], fields = fields, count = count, own = own, at = at + 2} end
  end
  replies[#replies + 1] = reply
  at = to + 1
end
if #entries == 0 then return replies end

-- All that may be refused, before the first entry is written: else every attempt would leave one more.
local created = redis.pcall('XGROUP', 'CREATE', KEYS[3], group, '0', 'MKSTREAM')
if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then return created end
redis.call('ZREM', KEYS[4], '0-0')
redis.call('XDEL', KEYS[3], '0-0')
prove(entries[1].id)
-- The member is the next id, which is only known once the entry is there: its score is proven with another.
redis.call('ZADD', KEYS[4], entries[1].due, '0-0')
redis.call('ZREM', KEYS[4], '0-0')
redis.call('ZADD', KEYS[5], 0, '0-0')
redis.call('ZREM', KEYS[5], '0-0')

local ids, marks = {}, {}
for n, entry in ipairs(entries) do
  local fields, since = entry.fields, nil
  for i = 1, entry.own do
    fields[entry.count + i] = ARGV[entry.at + i]
    if ARGV[entry.at + i] == 'waiting-since' and i % 2 == 1 then since = tonumber(ARGV[entry.at + i + 1]) end
  end
  local id = redis.call('XADD', KEYS[3], '*', unpack(fields, 1, entry.count + entry.own))
  redis.call('ZADD', KEYS[4], entry.due, id)
  -- Zero where it never failed.
  if since and since > 0 then redis.call('ZADD', KEYS[5], since, id) end
  ids[n], marks[n] = entry.id, 'aside:' .. entry.id
end
remember(table.concat(marks, ' '))
finish(unpack(ids))
return replies
