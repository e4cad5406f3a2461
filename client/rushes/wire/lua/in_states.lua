-- The samples in some states among a piece of an index, newest first.
-- ARGV: index, highest time, samples to look at, states.
-- Returns {samples looked at, time of the last of them, ids}.
local index, highest, size = unpack(ARGV)
local wanted = {}
for i = 4, #ARGV do wanted[ARGV[i]] = true end
local page = redis.call('ZREVRANGEBYSCORE', index, highest, '-inf', 'WITHSCORES', 'LIMIT', 0, size)
local found = {}
for i = 1, #page, 2 do
  if wanted[redis.call('HGET', JOB_PREFIX .. page[i], 'state')] then table.insert(found, page[i]) end
end
return {#page / 2, page[#page] or '', found}
