-- Renew a lease and report progress, only for the owner. JUSTID keeps a renewal from counting as a delivery.
-- ARGV: id, lane, entry, worker, run, stage, step, total, '1' if this is news
-- Returns 'ok', 'cancel' or 'lost'.
local id, lane, entry, worker, run, stage, step, total, news = unpack(ARGV)
if not owns(id, lane, entry, worker) then return 'lost' end
redis.call('XCLAIM', lane, GROUP, worker, 0, entry, 'JUSTID')
local key = JOB_PREFIX .. id
if news == '1' then
  redis.call('HSET', key, 'stage', stage, 'step', step, 'total', total)
  event('progress', id, run, cjson.encode({stage = stage, step = tonumber(step), total = tonumber(total)}))
end
if redis.call('HGET', key, 'cancelling') == '1' then return 'cancel' end
return 'ok'
