#!lua flags=allow-oom,allow-cross-slot-keys
--- rate_slot: Reserve the next slot for a call of an account, before each call. All workers share the slots.
--- @args account calls_per_s max_wait_ms
--- @returns the ms until the slot; negative if they exceed max_wait_ms: then no slot was reserved
--- @include lib/rate

local rate_key, interval_ms = key.rate .. account, 1000 / calls_per_s
local slot = next_slot(rate_key, interval_ms)
local wait_ms = math.ceil(slot - now)
if wait_ms > tonumber(max_wait_ms) then return -wait_ms end
call('SET', rate_key, string.format('%.3f', slot + interval_ms), 'PX', math.ceil(wait_ms + interval_ms) + 60000)
return wait_ms
