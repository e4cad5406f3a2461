-- The samples of one piece of an index that are in one of some states.
-- ARGV: index, place to go on behind or '', '1' for the oldest first, length of the piece, states... (none: any)
-- Returns {how many were looked at, time of the last of them or '', {id, time, id, time, ...}}.
local index, after, oldest, count = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local wanted = {}
for i = 5, #ARGV do wanted[ARGV[i]] = true end

local bound = after ~= '' and '(' .. after
local piece
if oldest then
  piece = redis.call('ZRANGEBYSCORE', index, bound or '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, count)
else
  piece = redis.call('ZREVRANGEBYSCORE', index, bound or '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, count)
end
local found = {}
for i = 1, #piece, 2 do
  if #ARGV < 5 or wanted[redis.call('HGET', JOB_PREFIX .. piece[i], 'state')] then
    found[#found + 1] = piece[i]
    found[#found + 1] = piece[i + 1]
  end
end
return {#piece / 2, piece[#piece] or '', found}
