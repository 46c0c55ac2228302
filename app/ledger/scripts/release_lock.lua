#!lua flags=allow-oom,allow-cross-slot-keys
--- release_lock: Give a lock back, unless another token has it by now.
--- @args lock token
--- @returns 1 if it was given back, else 0

return redis.call('GET', lock) == token and redis.call('DEL', lock) or 0
