-- The first entries of a lane that no worker has been given yet; none if there is no such lane.
local function undelivered(lane, count)
  local last = '0-0'
  local groups = redis.pcall('XINFO', 'GROUPS', lane)
  if groups.err then return {} end -- there is no such stream (any more)
  for _, group in ipairs(groups) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then last = group[i + 1] end
    end
  end
  return redis.call('XRANGE', lane, '(' .. last, '+', 'COUNT', count)
end
