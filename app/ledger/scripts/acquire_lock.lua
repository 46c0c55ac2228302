#!lua flags=allow-oom,allow-cross-slot-keys
--- acquire_lock: Take a lock for ttl_ms, or extend it if this token holds it.
--- expected_ms: '' if a jump of the clock does no harm.
--- @args expected_ms lock token ttl_ms
--- @returns 1, or nil while another token holds the lock
--- @include lib/clock_check

local jumped = expected_ms ~= '' and clock_error(expected_ms)
if jumped then return jumped end
if call('GET', lock) == token then return call('PEXPIRE', lock, ttl_ms) end
if call('SET', lock, token, 'NX', 'PX', ttl_ms) then return 1 end
-- After the clock went back, the lock of a dead process would last for longer. A living holder has renewed its lock.
if call('PTTL', lock) > tonumber(ttl_ms) then call('PEXPIRE', lock, ttl_ms) end
