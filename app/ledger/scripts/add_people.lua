#!lua flags=allow-oom,allow-cross-slot-keys
--- add_people: Add the people in a record to those in earlier records of the same booking.
--- fetched_at: when the record was requested, in µs. A record is outdated if it lists an unknown person and a newer record was
--- added before: that person may have been removed since.
--- @args booking fetched_at keep_ms
--- @varargs people
--- @returns all people in the order of their first listing | outdated
--- @include lib/clock

-- The score of the member '' is the time of the newest record, which is greater than any position.
local list, unknown = key.people .. booking, {}
for _, person in ipairs(people) do
  if not call('ZSCORE', list, person) then unknown[#unknown + 1] = person end
end
local newest = tonumber(call('ZSCORE', list, '') or 0)
if newest > time[1] * 1000000 + time[2] then newest = 0 end  -- the clock went back
if #unknown > 0 and tonumber(fetched_at) < newest then return 'outdated' end
local count = call('ZCARD', list)
for i, person in ipairs(unknown) do call('ZADD', list, count + i, person) end
call('ZADD', list, tonumber(fetched_at) > newest and fetched_at or string.format('%.0f', newest), '')
call('PEXPIRE', list, keep_ms)
local all = call('ZRANGE', list, 0, -1)
all[#all] = nil
return all
