#!lua flags=allow-oom,allow-cross-slot-keys
--- release_lock: Delete a lock if this token holds it.
--- @args lock token
--- @returns 1 if the lock was deleted, else 0

return redis.call('GET', lock) == token and redis.call('DEL', lock) or 0
