-- How many samples of one piece of a run are in which state. ARGV: index, first and last rank.
-- Returns {how many were looked at, {state, count, state, count, ...}}.
local ids = redis.call('ZRANGE', ARGV[1], ARGV[2], ARGV[3])
local counts = {}
for _, id in ipairs(ids) do
  local state = redis.call('HGET', JOB_PREFIX .. id, 'state')
  if state then counts[state] = (counts[state] or 0) + 1 end
end
local flat = {}
for state, count in pairs(counts) do
  flat[#flat + 1] = state
  flat[#flat + 1] = count
end
return {#ids, flat}
