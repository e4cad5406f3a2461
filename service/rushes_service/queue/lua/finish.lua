-- End a running job, only for the owner. ARGV: id, lane, entry, worker, state, result
-- Returns {1, snapshot to release or ''}, or {0} when somebody else owns it.
local id, lane, entry, worker, state, result = unpack(ARGV)
if not owns(id, lane, entry, worker) then
  -- The same call again, because its answer was lost on its way: this worker has ended the sample already.
  local record = redis.call('HMGET', JOB_PREFIX .. id, 'state', 'worker', 'result', 'snapshot')
  if record[1] ~= state or record[2] ~= worker or record[3] ~= result then return {0} end
  local snapshot = record[4] or ''
  if snapshot == '' or redis.call('EXISTS', SNAPSHOT_PREFIX .. snapshot) == 1 then return {1, ''} end
  return {1, snapshot}
end
drop(lane, entry)
return {1, close(id, state, result)}
