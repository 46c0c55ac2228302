#!lua flags=allow-oom,allow-cross-slot-keys
--- release_lock: Delete a lock if this token holds it. Before that, write a value for keep_ms, even if another token has the lock.
--- value: its key, or '' for none.
--- @args lock token value content keep_ms
--- @returns 1 if the lock was deleted, else 0

if value ~= '' then redis.call('SET', value, content, 'PX', keep_ms) end
return redis.call('GET', lock) == token and redis.call('DEL', lock) or 0
