-- Give a running job back, only for the owner: at once, or after a delay when it is to be tried again.
-- ARGV: id, lane, entry, worker, run, event type, delay in seconds, data. Returns 1, or 0 when somebody else owns it.
local id, lane, entry, worker, run, kind, delay, data = unpack(ARGV)
if not owns(id, lane, entry, worker) then return 0 end
drop(lane, entry)
local key = JOB_PREFIX .. id
redis.call('HDEL', key, 'worker', 'entry')
if kind == 'retry' then redis.call('HINCRBY', key, 'attempt', 1) end
-- The worker lives: what it gives back is no delivery that killed somebody.
redis.call('HSET', key, 'deliveries', 0, 'state', 'queued')
event(kind, id, run, data)
if tonumber(delay) > 0 then
  redis.call('ZADD', DELAYED, tonumber(now()) + tonumber(delay), id)
else
  enqueue(id, lane)
end
return 1
