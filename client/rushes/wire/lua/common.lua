-- Shared by every script. The key names above this line come from keys.py.

local clock

-- Seconds since 1970. The server stops its clock while a script runs, so one look is enough.
local function now()
  if not clock then
    local t = redis.call('TIME')
    clock = string.format('%.6f', tonumber(t[1]) + tonumber(t[2]) / 1000000)
  end
  return clock
end

-- The time of a new record, later than that of any other: every command of one transaction sees the same clock, and
-- pages of a listing are cut by time.
local function unique_now()
  local time = now()
  local newest = redis.call('ZREVRANGE', INDEX, 0, 0, 'WITHSCORES')[2]
  if newest and tonumber(newest) >= tonumber(time) then
    time = string.format('%.6f', tonumber(newest) + 0.000001)
  end
  return time
end

local function event(kind, id, run, data)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_MAXLEN, '*',
    'type', kind, 'id', id, 'run', run, 'data', data)
end

-- Put a job on its lane and wake the idle workers. Further fields of its record may be given.
local function enqueue(id, lane, ...)
  local entry = redis.call('XADD', lane, '*', 'id', id)
  redis.call('HSET', JOB_PREFIX .. id, 'state', 'queued', 'lane', lane, 'entry', entry, ...)
  redis.call('XADD', BELL, 'MAXLEN', 1, '*', 'lane', lane)
end

-- End a job in a terminal state. Returns the checkpoint snapshot that no other job needs, or ''.
local function close(id, state, result)
  local key = JOB_PREFIX .. id
  local kept = redis.call('HMGET', key, 'run', 'snapshot')
  local run, snapshot = kept[1] or '', kept[2] or ''
  redis.call('HSET', key, 'state', state, 'finished_at', now(), 'result', result)
  redis.call('HDEL', key, 'entry', 'cancelling')
  redis.call('EXPIRE', key, RECORD_TTL_S)
  redis.call('XADD', RESULTS_PREFIX .. run, 'MAXLEN', '~', RESULTS_MAXLEN, '*', 'id', id)
  redis.call('EXPIRE', RESULTS_PREFIX .. run, RECORD_TTL_S)
  event(state, id, run, result)
  -- Here rather than at submission, which delays the start of the sample.
  redis.call('ZREMRANGEBYSCORE', INDEX, '-inf', tonumber(now()) - RECORD_TTL_S)
  redis.call('ZREMRANGEBYSCORE', RUNS, '-inf', tonumber(now()) - RECORD_TTL_S)
  if snapshot == '' then return '' end
  redis.call('SREM', SNAPSHOT_PREFIX .. snapshot, id)
  if redis.call('SCARD', SNAPSHOT_PREFIX .. snapshot) > 0 then return '' end
  return snapshot
end
