#!lua flags=allow-oom,allow-cross-slot-keys
--- acquire_lock: Take a lock for ttl_ms, or extend it if this token holds it.
--- expected_ms: '' if a jump of the clock does no harm.
--- @args expected_ms lock token ttl_ms
--- @returns 1, or nil while another token holds the lock
--- @include lib/clock_check

local jumped = expected_ms ~= '' and clock_error(expected_ms)
if jumped then return jumped end
if call('GET', lock) == token then return call('PEXPIRE', lock, ttl_ms) end
return call('SET', lock, token, 'NX', 'PX', ttl_ms) and 1
