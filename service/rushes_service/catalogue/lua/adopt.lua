-- Record a sample that was made before, as done; one that has a record is left alone.
-- ARGV: id, run, payload, result, finished_at. Returns 1, or 0 when there is a record.
local id, run, payload, result, finished = unpack(ARGV)
local key = JOB_PREFIX .. id
if redis.call('EXISTS', key) == 1 then return 0 end
-- Under the time of its import: lists forget by time, and this sample has just come to be known.
local time = unique_now()
redis.call('HSET', key, 'payload', payload, 'run', run, 'snapshot', '', 'created_at', time, 'state', 'done',
  'finished_at', finished, 'result', result)
redis.call('EXPIRE', key, RECORD_TTL_S)
redis.call('ZADD', INDEX, time, id)
redis.call('ZADD', RUNS, time, run)
redis.call('ZADD', RUN_PREFIX .. run, time, id)
redis.call('EXPIRE', RUN_PREFIX .. run, RECORD_TTL_S)
return 1
