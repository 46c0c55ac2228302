--- The queue for calls of an account: its key holds the time of the next free slot.
--- @include lib/clock

-- No process joins a queue longer than two minutes; a later time means that the clock went back.
local function next_slot(rate_key, interval_ms)
  local slot = tonumber(call('GET', rate_key) or 0)
  return (slot < now or slot > now + 120000 + interval_ms) and now or slot
end
