#!lua flags=allow-oom,allow-cross-slot-keys
--- acquire_lock: Take a lock for ttl_ms, or extend it if this token holds it.
--- expected_ms: '' if a jump of the clock is harmless. value: a key to read after that, or ''.
--- @args expected_ms lock token ttl_ms value
--- @returns {1 or, while another token holds the lock, 0; the value}
--- @include lib/clock_check

local jumped = expected_ms ~= '' and clock_error(expected_ms)
if jumped then return jumped end

local function acquire()
  if call('GET', lock) == token then return call('PEXPIRE', lock, ttl_ms) end
  if call('SET', lock, token, 'NX', 'PX', ttl_ms) then return 1 end
  -- After the clock went back, the lock of a dead process would last for longer. A living holder has renewed its lock.
  if call('PTTL', lock) > tonumber(ttl_ms) then call('PEXPIRE', lock, ttl_ms) end
  return 0
end

return {acquire(), value ~= '' and call('GET', value)}
