-- Record jobs and queue them; or those with a result, record them as failed before they were ever queued.
-- Asking again for a job that is queued, running or done changes nothing: ids are made from content.
-- ARGV, for each job: id, run, lane, model, payload, snapshot path or '', training step, '1' if its run keeps the
-- latest checkpoint only, time of submission in seconds since 1970, result or ''
-- Returns {the state that each is in ('done' means that it was done before), snapshots that no job needs}.
local FIELDS = 10

-- Remember a run's newest checkpoint: the one submitted last, not the one that arrived last. A spool that is handed
-- over after an outage holds older ones; a training that resumes from an earlier step submits that step later.
local function remember_newest(run, at_step, submitted_at)
  local before = redis.call('GET', NEWEST_AT_PREFIX .. run)
  if before and tonumber(before) > tonumber(submitted_at) then return end
  redis.call('SET', NEWEST_PREFIX .. run, at_step, 'EX', RECORD_TTL_S)
  redis.call('SET', NEWEST_AT_PREFIX .. run, submitted_at, 'EX', RECORD_TTL_S)
end

local function submit(id, run, lane, model, payload, snapshot, at_step, latest, submitted_at, result)
  local key = JOB_PREFIX .. id
  local state = redis.call('HGET', key, 'state')
  if state == 'queued' or state == 'running' or state == 'done' then return state end

  local time = unique_now()
  if state then redis.call('DEL', key) end
  local record = {'payload', payload, 'run', run, 'snapshot', snapshot, 'created_at', time, 'at_step', at_step}
  redis.call('ZADD', INDEX, time, id)
  redis.call('ZADD', RUNS, time, run)
  redis.call('ZADD', RUN_PREFIX .. run, time, id)
  redis.call('EXPIRE', RUN_PREFIX .. run, RECORD_TTL_S)

  if result ~= '' then
    redis.call('HSET', key, unpack(record))
    close(id, 'failed', result)
    return 'failed'
  end
  if latest == '1' then
    record[#record + 1], record[#record + 2] = 'latest', '1'
    remember_newest(run, at_step, submitted_at)
  end
  if snapshot ~= '' then
    redis.call('SADD', SNAPSHOT_PREFIX .. snapshot, id)
    redis.call('EXPIRE', SNAPSHOT_PREFIX .. snapshot, RECORD_TTL_S)
  end
  if redis.call('HSETNX', LANES, lane, model) == 1 then
    redis.pcall('XGROUP', 'CREATE', lane, GROUP, '0', 'MKSTREAM')
  end
  enqueue(id, lane, unpack(record))
  event('queued', id, run, payload)
  return 'queued'
end

local states, unneeded = {}, {}
for first = 1, #ARGV, FIELDS do
  table.insert(states, submit(unpack(ARGV, first, first + FIELDS - 1)))
end
for first = 1, #ARGV, FIELDS do
  local snapshot = ARGV[first + 5]
  if snapshot ~= '' and redis.call('EXISTS', SNAPSHOT_PREFIX .. snapshot) == 0 then
    table.insert(unneeded, snapshot)
  end
end
return {states, unneeded}
