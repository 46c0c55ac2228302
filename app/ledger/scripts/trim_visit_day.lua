#!lua flags=allow-oom,allow-cross-slot-keys
--- trim_visit_day: Remove expired visits from the list of a day.
--- @args day limit
--- @returns how many were removed
--- @include lib/clock

local list, removed = key.visit_day .. day, 0
-- Each visit that remains moves to the end of the list.
for _, entry in ipairs(call('LPOP', list, limit) or {}) do
  if call('EXISTS', key.task .. 'visit:' .. string.match(entry, ' (.*)$')) == 1 then
    call('RPUSH', list, entry)
  else
    removed = removed + 1
  end
end
if call('EXISTS', list) == 0 then call('ZREM', key.visit_days, day) end
return removed
