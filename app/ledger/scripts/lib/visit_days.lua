--- The visits of each day, by the time at which they start: a list of `<HH:MM> <account>/<external_id>` per day, in no order.
--- A list takes half the memory of a sorted set. `bell:visit-days` sorts the days that have one.
--- @include lib/clock

local DAY_LENGTH = 10

local function day_entry(task, start)
  return string.sub(start, 1, DAY_LENGTH), string.sub(start, DAY_LENGTH + 2) .. ' ' .. string.match(task, '^visit:(.*)$')
end

-- start: `2026-03-14T16:00`
local function add_to_day(task, start)
  local day, entry = day_entry(task, start)
  if call('RPUSH', key.visit_day .. day, entry) == 1 then
    call('ZADD', key.visit_days, (string.gsub(day, '-', '')), day)
  end
end

local function remove_from_day(task, start)
  local day, entry = day_entry(task, start)
  call('LREM', key.visit_day .. day, 1, entry)
  if call('EXISTS', key.visit_day .. day) == 0 then call('ZREM', key.visit_days, day) end
end
