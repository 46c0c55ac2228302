#!lua flags=allow-oom,allow-cross-slot-keys
--- add_people: Add the people in a record to all who were ever in a record of this booking.
--- fetched_at: when the record was asked for, in µs. A record that is older than one that was seen, and lists somebody new, is
--- outdated: that person may have been removed since.
--- @args booking fetched_at keep_ms
--- @rest people
--- @returns all people, in the order in which they were first listed | outdated
--- @include lib/clock

-- The member '' holds the time of the newest record, which is greater than any position.
local list, unknown = key.people .. booking, {}
for _, person in ipairs(people) do
  if not call('ZSCORE', list, person) then unknown[#unknown + 1] = person end
end
local newest = tonumber(call('ZSCORE', list, '') or 0)
if #unknown > 0 and tonumber(fetched_at) < newest then return 'outdated' end
local count = call('ZCARD', list)
for i, person in ipairs(unknown) do call('ZADD', list, count + i, person) end
call('ZADD', list, tonumber(fetched_at) > newest and fetched_at or string.format('%.0f', newest), '')
call('PEXPIRE', list, keep_ms)
local all = call('ZRANGE', list, 0, -1)
all[#all] = nil
return all
