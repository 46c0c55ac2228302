--- The rate limit of an account: its key contains the time of the next free slot for a call.
--- @include lib/clock

-- No process waits longer than two minutes for a slot. A later time means that the clock went back.
local function next_slot(rate_key, interval_ms)
  local slot = tonumber(call('GET', rate_key) or 0)
  return (slot < now or slot > now + 120000 + interval_ms) and now or slot
end
