-- Record a job and queue it; or, with a result, record it as failed before it was ever queued.
-- Asking again for a job that is queued, running or done changes nothing: ids are made from content.
-- ARGV: id, run, lane, model, payload, snapshot path or '', result or ''
-- Returns the state it is in; 'done' means that it was done before.
local id, run, lane, model, payload, snapshot, result = unpack(ARGV)
local key = JOB_PREFIX .. id
local state = redis.call('HGET', key, 'state')
if state == 'queued' or state == 'running' or state == 'done' then return state end

local time = unique_now()
redis.call('DEL', key)
redis.call('HSET', key, 'payload', payload, 'run', run, 'snapshot', snapshot, 'created_at', time)
redis.call('ZADD', INDEX, time, id)
redis.call('ZADD', RUNS, time, run)
redis.call('ZADD', RUN_PREFIX .. run, time, id)
redis.call('EXPIRE', RUN_PREFIX .. run, RECORD_TTL_S)
redis.call('ZREMRANGEBYSCORE', INDEX, '-inf', tonumber(time) - RECORD_TTL_S)
redis.call('ZREMRANGEBYSCORE', RUNS, '-inf', tonumber(time) - RECORD_TTL_S)

if result ~= '' then
  close(id, 'failed', result)
  return 'failed'
end
if snapshot ~= '' then
  redis.call('SADD', SNAPSHOT_PREFIX .. snapshot, id)
  redis.call('EXPIRE', SNAPSHOT_PREFIX .. snapshot, RECORD_TTL_S)
end
if redis.call('HSETNX', LANES, lane, model) == 1 then
  redis.pcall('XGROUP', 'CREATE', lane, GROUP, '0', 'MKSTREAM')
end
enqueue(id, lane)
event('queued', id, run, payload)
return 'queued'
