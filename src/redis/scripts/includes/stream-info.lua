-- Stands before every script that reads the counters of a stream and of its group.

local function infoOf(flat)
  local info = {}
  for n = 1, #flat, 2 do info[flat[n]] = flat[n + 1] end
  return info
end

-- Redis from 8 on and Valkey correct a group's entries-read at each delivery, and replicate it. Redis 7 counts deliveries: what
-- was trimmed unread stays missing in it, and a replica or a restart from the AOF keeps an old value.
local corrects = rawget(_G, 'server') ~= nil or (redis.REDIS_VERSION_NUM or 0) >= 0x00080000
