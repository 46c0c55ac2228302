--- For scripts that grant something: has the clock of the server jumped?
--- @include lib/clock

local MAX_CLOCK_STEP_MS = 2000

-- expected_ms: the time that the calling process expects. If the clock jumped, leases that are still in use seem to have
-- expired. A script that grants something then stops with this error, until all processes have renewed their leases.
local function clock_error(expected_ms)
  if math.abs(now - expected_ms) > MAX_CLOCK_STEP_MS then return redis.error_reply('CLOCK jumped') end
end
