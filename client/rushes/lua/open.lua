-- The open samples among a piece of an index, newest first. ARGV: index, highest time, samples to look at.
-- Returns {samples looked at, time of the last of them, ids}.
local index, highest, size = unpack(ARGV)
local page = redis.call('ZREVRANGEBYSCORE', index, highest, '-inf', 'WITHSCORES', 'LIMIT', 0, size)
local open = {}
for i = 1, #page, 2 do
  local state = redis.call('HGET', JOB_PREFIX .. page[i], 'state')
  if state == 'queued' or state == 'running' then table.insert(open, page[i]) end
end
return {#page / 2, page[#page] or '', open}
