#!lua flags=allow-oom,allow-cross-slot-keys
--- add_counters: Add the counts of a process to a hash of counters.
--- @args counters ttl_s
--- @rest counts: field count

for _, each in ipairs(counts) do redis.call('HINCRBY', counters, each.field, each.count) end
if ttl_s ~= '0' then redis.call('EXPIRE', counters, ttl_s) end
