-- Forget the records of ended samples among a piece of an index, newest first.
-- ARGV: index, highest time, samples to look at, state or '' for every ended one, latest end.
-- Returns {samples looked at, time of the last of them, records forgotten}.
local index, highest, size, state, before = unpack(ARGV)
local page = redis.call('ZREVRANGEBYSCORE', index, highest, '-inf', 'WITHSCORES', 'LIMIT', 0, size)
local forgotten = 0
for i = 1, #page, 2 do
  local id = page[i]
  local record = redis.call('HMGET', JOB_PREFIX .. id, 'state', 'finished_at', 'run')
  local open = not record[1] or record[1] == 'queued' or record[1] == 'running'
  if not open and (state == '' or record[1] == state) and tonumber(record[2] or 0) <= tonumber(before) then
    redis.call('UNLINK', JOB_PREFIX .. id)
    redis.call('ZREM', INDEX, id)
    redis.call('ZREM', RUN_PREFIX .. (record[3] or ''), id)
    forgotten = forgotten + 1
  end
end
return {#page / 2, page[#page] or '', forgotten}
