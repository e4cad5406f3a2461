-- Jobs that wait in some lanes, in the order in which they will be given to a worker; changes nothing.
-- ARGV: the most to return, lanes...
-- Returns payloads.
local most, found = tonumber(ARGV[1]), {}
for _, lane in ipairs({unpack(ARGV, 2)}) do
  for _, entry in ipairs(undelivered(lane, most - #found)) do
    local record = redis.call('HMGET', JOB_PREFIX .. entry[2][2], 'state', 'entry', 'payload')
    if record[1] == 'queued' and record[2] == entry[1] and record[3] then table.insert(found, record[3]) end
  end
  if #found >= most then break end
end
return found
