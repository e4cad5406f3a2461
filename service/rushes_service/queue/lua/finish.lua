-- End a running job, only for the owner. ARGV: id, lane, entry, worker, state, result
-- Returns {1, snapshot to release or ''}, or {0} when somebody else owns it.
local id, lane, entry, worker, state, result = unpack(ARGV)
if not owns(id, lane, entry, worker) then return {0} end
drop(lane, entry)
return {1, close(id, state, result)}
