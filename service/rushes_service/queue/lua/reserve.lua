-- Give one job to a worker: first a stale one of a dead worker, then the next one, lane by lane in the order given.
-- A lane whose next job has waited for too long comes before all others.
-- ARGV: worker, lease in milliseconds, patience in milliseconds (0: any), request, lanes...
-- Returns {id, payload, lane, entry, deliveries, attempt, cancelling, step that supersedes it or ''} or {}.
local worker, lease_ms, patience_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local request, lanes = ARGV[4], {unpack(ARGV, 5)}

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now(), 'LIMIT', 0, 16)) do
  redis.call('ZREM', DELAYED, id)
  local lane = redis.call('HGET', JOB_PREFIX .. id, 'lane')
  if lane then enqueue(id, lane) end
end

-- XAUTOCLAIM looks at a bounded piece of the pending list and may miss a stale entry behind fresh ones.
local function stale(lane)
  local pending = pending_of(lane, 'IDLE', lease_ms, '-', '+', 1)
  if not pending then -- the stream or its group was lost: what the stream has is to be made from its beginning
    redis.call('XGROUP', 'CREATE', lane, GROUP, '0', 'MKSTREAM')
    return nil
  end
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

-- Milliseconds for which the next undelivered job of a lane has waited.
local function waited_ms(lane)
  local head = undelivered(lane, 1)
  if #head == 0 then return 0 end
  return tonumber(now()) * 1000 - tonumber(string.match(head[1][1], '^%d+'))
end

-- The step of a newer checkpoint that makes this job needless, for a run that keeps the latest only. The base model
-- (step 0) is never needless, and neither is the newest checkpoint.
local function superseded_by(run, at_step, latest)
  if latest ~= '1' or at_step == '0' then return '' end
  local newest = redis.call('GET', NEWEST_PREFIX .. run)
  return newest and newest ~= at_step and newest or ''
end

local function record_of(id)
  return redis.call('HMGET', JOB_PREFIX .. id, 'state', 'entry', 'run', 'payload', 'attempt', 'cancelling',
    'deliveries', 'at_step', 'latest')
end

local function answer(id, lane, entry, record, deliveries)
  local needless = superseded_by(record[3], record[8], record[9])
  return {id, record[4], lane, entry, deliveries, tonumber(record[5] or 0), record[6] or '', needless}
end

-- The same request again, because its answer was lost on its way: this worker owns a sample and does not know it.
local function repeated()
  local kept = redis.call('HMGET', RESERVED_PREFIX .. worker, 'request', 'id', 'lane', 'entry')
  local id, lane, entry = kept[2], kept[3], kept[4]
  if kept[1] ~= request or not owns(id, lane, entry, worker) then return nil end
  redis.call('XCLAIM', lane, GROUP, worker, 0, entry, 'JUSTID') -- the lease begins now
  local record = record_of(id)
  return answer(id, lane, entry, record, tonumber(record[7] or 1))
end

local function start(lane, found)
  local entry, id = found[1], found[2][2]
  local key = JOB_PREFIX .. id
  local record = record_of(id)
  local open = record[1] == 'queued' or record[1] == 'running'
  if not open or record[2] ~= entry then
    drop(lane, entry) -- cancelled, expired, or queued again under another entry
    return nil
  end
  local deliveries = tonumber(record[7] or 0) + 1
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'started_at', now(), 'deliveries', deliveries,
    'step', 0, 'total', 0, 'stage', '')
  redis.call('HSET', RESERVED_PREFIX .. worker, 'request', request, 'id', id, 'lane', lane, 'entry', entry)
  redis.call('PEXPIRE', RESERVED_PREFIX .. worker, lease_ms)
  local found_job = answer(id, lane, entry, record, deliveries)
  if found_job[8] == '' then event('started', id, record[3], cjson.encode({worker = worker})) end
  return found_job
end

local again = repeated()
if again then return again end

if patience_ms > 0 and #lanes > 1 then
  local oldest, longest = nil, patience_ms
  for i, lane in ipairs(lanes) do
    local waited = waited_ms(lane)
    if waited > longest then oldest, longest = i, waited end
  end
  if oldest then table.insert(lanes, 1, table.remove(lanes, oldest)) end
end

for _, lane in ipairs(lanes) do
  local found = stale(lane) or fresh(lane)
  while found do
    local started = start(lane, found)
    if started then return started end
    found = stale(lane) or fresh(lane)
  end
end
return {}
