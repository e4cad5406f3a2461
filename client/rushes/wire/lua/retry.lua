-- Queue an ended job again, as if new. It is made even if a newer checkpoint has been submitted since.
-- ARGV: id. Returns the state it was in, or false without a record.
local id = ARGV[1]
local key = JOB_PREFIX .. id
local record = redis.call('HMGET', key, 'state', 'lane', 'run', 'snapshot', 'payload')
local state, lane, run, snapshot, payload = unpack(record)
if not state then return false end
if state == 'queued' or state == 'running' then return state end
if not lane then return 'never queued' end
redis.call('HDEL', key, 'result', 'finished_at', 'started_at', 'worker', 'attempt', 'deliveries', 'stage', 'step',
  'total', 'latest')
redis.call('PERSIST', key)
if snapshot and snapshot ~= '' then
  redis.call('SADD', SNAPSHOT_PREFIX .. snapshot, id)
  redis.call('EXPIRE', SNAPSHOT_PREFIX .. snapshot, RECORD_TTL_S)
end
enqueue(id, lane)
event('queued', id, run, payload)
return state
