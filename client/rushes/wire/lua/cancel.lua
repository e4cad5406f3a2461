-- Cancel a job: a queued one ends here, a running one is told to stop at its next step.
-- ARGV: id, result. Returns {state, snapshot to release or ''}; {false} without a record.
local id, result = unpack(ARGV)
local key = JOB_PREFIX .. id
local record = redis.call('HMGET', key, 'state', 'lane', 'entry', 'run')
local state, lane, entry, run = unpack(record)
if not state then return {false, ''} end
if state == 'running' then
  redis.call('HSET', key, 'cancelling', '1')
  event('cancelling', id, run, '{}')
  return {state, ''}
end
if state ~= 'queued' then return {state, ''} end
if entry then redis.call('XDEL', lane, entry) end
redis.call('ZREM', DELAYED, id)
return {'cancelled', close(id, 'cancelled', result)}
