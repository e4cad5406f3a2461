-- The fields that a listing shows, of many records in one call: a command for each would cost more than reading it.
-- ARGV: ids... Returns for each what HMGET gives.
local found = {}
for i = 1, #ARGV do
  found[i] = redis.call('HMGET', JOB_PREFIX .. ARGV[i], 'payload', 'state', 'stage', 'step', 'total', 'created_at',
    'finished_at', 'worker', 'cancelling', 'result')
end
return found
