#!lua flags=allow-oom,allow-cross-slot-keys
--- trim: Remove members older than keep_ms from a set that is sorted by time.
--- @args set keep_ms limit
--- @returns how many were removed
--- @include lib/clock

local old = call('ZCOUNT', set, '-inf', now - keep_ms)
return old > 0 and call('ZREMRANGEBYRANK', set, 0, math.min(old, tonumber(limit)) - 1) or 0
