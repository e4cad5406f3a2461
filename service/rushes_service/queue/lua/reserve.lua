-- Give one job to a worker: first a stale one of a dead worker, then the next one, lane by lane in the order given.
-- ARGV: worker, lease in milliseconds, lanes...
-- Returns {id, payload, lane, entry, deliveries, attempt, cancelling} or {}.
local worker, lease_ms = ARGV[1], tonumber(ARGV[2])

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now(), 'LIMIT', 0, 16)) do
  redis.call('ZREM', DELAYED, id)
  local lane = redis.call('HGET', JOB_PREFIX .. id, 'lane')
  if lane then enqueue(id, lane) end
end

-- XAUTOCLAIM looks at a bounded piece of the pending list and may miss a stale entry behind fresh ones.
local function stale(lane)
  local pending = redis.call('XPENDING', lane, GROUP, 'IDLE', lease_ms, '-', '+', 1)
  if #pending == 0 then return nil end
  local entry = pending[1][1]
  local claimed = redis.call('XCLAIM', lane, GROUP, worker, lease_ms, entry)
  if #claimed == 0 or not claimed[1] then
    redis.call('XACK', lane, GROUP, entry) -- the entry was deleted while pending
    return stale(lane)
  end
  return claimed[1]
end

local function fresh(lane)
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', 1, 'STREAMS', lane, '>')
  return read and read[1] and read[1][2][1]
end

local function start(lane, found)
  local entry, id = found[1], found[2][2]
  local key = JOB_PREFIX .. id
  local record = redis.call('HMGET', key, 'state', 'entry', 'run', 'payload', 'attempt', 'cancelling', 'deliveries')
  local open = record[1] == 'queued' or record[1] == 'running'
  if not open or record[2] ~= entry then
    drop(lane, entry) -- cancelled, expired, or queued again under another entry
    return nil
  end
  local deliveries = tonumber(record[7] or 0) + 1
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'started_at', now(), 'deliveries', deliveries,
    'step', 0, 'total', 0, 'stage', '')
  event('started', id, record[3], cjson.encode({worker = worker}))
  return {id, record[4], lane, entry, deliveries, tonumber(record[5] or 0), record[6] or ''}
end

for i = 3, #ARGV do
  local lane = ARGV[i]
  local found = stale(lane) or fresh(lane)
  while found do
    local started = start(lane, found)
    if started then return started end
    found = stale(lane) or fresh(lane)
  end
end
return {}
