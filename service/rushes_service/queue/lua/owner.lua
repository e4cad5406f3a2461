-- Whether `worker` still owns a delivered entry: the pending list and the record must both say so. XACK and XCLAIM
-- ask neither, so every script that changes a running job starts here.
local function owns(id, lane, entry, worker)
  local pending = redis.call('XPENDING', lane, GROUP, entry, entry, 1)
  if #pending == 0 or pending[1][2] ~= worker then return false end
  local record = redis.call('HMGET', JOB_PREFIX .. id, 'state', 'entry', 'worker')
  return record[1] == 'running' and record[2] == entry and record[3] == worker
end

local function drop(lane, entry)
  redis.call('XACK', lane, GROUP, entry)
  redis.call('XDEL', lane, entry)
end
