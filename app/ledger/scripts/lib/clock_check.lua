--- Detects a jump of the server's clock, for scripts that grant leases, locks or jobs.
--- @include lib/clock

local MAX_CLOCK_STEP_MS = 2000

-- expected_ms: the server time that the calling process expects. After a jump, leases that are still in use look expired. The
-- script returns this error, and the process waits until all processes had time to renew their leases.
local function clock_error(expected_ms)
  if math.abs(now - expected_ms) > MAX_CLOCK_STEP_MS then return redis.error_reply('CLOCK jumped') end
end
