#!lua flags=no-writes,allow-cross-slot-keys
--- long_gaps: Find the long gaps between the webhooks of a hook, back to a time, without reading all of them.
--- Deliveries of our own, from a tool's list, are not webhooks. Times are in ms since 1970.
--- @args hook newest since min_ms
--- @returns the time of the oldest webhook after since, then each gap of at least min_ms

local call = redis.call
local list, page = key.deliveries .. hook, 50

local function first_webhook(command, from, to)
  local entries, offset = nil, 0
  repeat
    entries = call(command, list, from, to, 'WITHSCORES', 'LIMIT', offset, page)
    for i = 1, #entries, 2 do
      if string.sub(entries[i], 1, 1) ~= 'l' then return entries[i + 1] end
    end
    offset = offset + page
  until #entries < 2 * page
end

-- From a webhook, jump to the earliest one that is less than min_ms older: there is no long gap between them.
local oldest, gaps = newest, {}
while true do
  local from = math.max(tonumber(since), oldest - min_ms)
  local earlier = first_webhook('ZRANGEBYSCORE', '(' .. string.format('%.3f', from), '(' .. oldest)
  if not earlier then
    earlier = first_webhook('ZREVRANGEBYSCORE', '(' .. oldest, since)
    if not earlier then break end
    gaps[#gaps + 1] = string.format('%.3f', oldest - earlier)
  end
  oldest = earlier
end
return {oldest, unpack(gaps)}
