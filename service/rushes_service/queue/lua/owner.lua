-- Whether `worker` still owns a delivered entry: the pending list and the record must both say so. XACK and XCLAIM
-- ask neither, so every script that changes a running job starts here. On a server that has lost its data there is
-- no group: nobody owns anything.
local function pending_of(lane, ...)
  local pending = redis.pcall('XPENDING', lane, GROUP, ...)
  if not pending.err then return pending end
  if string.find(pending.err, 'NOGROUP') then return nil end
  error(pending.err)
end

local function owns(id, lane, entry, worker)
  local pending = pending_of(lane, entry, entry, 1)
  if not pending then return false end
  if #pending == 0 or pending[1][2] ~= worker then return false end
  local record = redis.call('HMGET', JOB_PREFIX .. id, 'state', 'entry', 'worker')
  return record[1] == 'running' and record[2] == entry and record[3] == worker
end

local function drop(lane, entry)
  redis.call('XACK', lane, GROUP, entry)
  redis.call('XDEL', lane, entry)
end
