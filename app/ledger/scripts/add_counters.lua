#!lua flags=allow-oom,allow-cross-slot-keys
--- add_counters: Add the counts of a process to a hash of counters, unless they are the batch that it added last.
--- last_batch: the key that has that batch, or ''. ttl_s: of the hash, or 0.
--- @args counters ttl_s last_batch batch
--- @varargs counts: field count

if last_batch ~= '' and redis.call('GET', last_batch) == batch then return end
for _, item in ipairs(counts) do redis.call('HINCRBY', counters, item.field, item.count) end
if ttl_s ~= '0' then redis.call('EXPIRE', counters, ttl_s) end
if last_batch ~= '' then redis.call('SET', last_batch, batch, 'EX', 3600) end
