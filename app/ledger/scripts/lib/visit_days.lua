--- The visits of each day, by the time at which they start: a list of `<HH:MM> <account>/<external_id>` per day, in no order.
--- A list takes half the memory of a sorted set. `bell:visit-days` sorts the days that have one.
--- @include lib/clock

-- `visit:main/standard-1`, `2026-03-14T16:00` -> `2026-03-14`, `16:00 main/standard-1`
local function day_entry(task, start)
  return string.sub(start, 1, 10), string.sub(start, 12) .. ' ' .. string.sub(task, #'visit:' + 1)
end

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
