#!lua flags=allow-oom,allow-cross-slot-keys
--- add_counters: Add the counts of a process to a hash of counters.
--- @args counters ttl_s
--- @varargs counts: field count

for _, item in ipairs(counts) do redis.call('HINCRBY', counters, item.field, item.count) end
if ttl_s ~= '0' then redis.call('EXPIRE', counters, ttl_s) end
