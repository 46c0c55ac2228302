--- An index leads from a digest to ids, in lists of many entries: in a key for each entry they would take four times the memory.
--- The list `bell:index:<index>:<period>:<digits>` has the entries whose digests begin with these hex digits and that expire in
--- this period, the newest last. `bell:index-periods:<index>` has the periods. A full list is continued by 16 lists with one digit
--- more, so that none is long, however many entries there are.
--- @include lib/clock

local PERIOD_MS, CAPACITY, MIN_DIGITS, MAX_DIGITS = 10 * 86400000, 200, 2, 6

local function bucket_name(index, period, digits, count)
  return key.index .. index .. ':' .. period .. ':' .. string.sub(digits, 1, count)
end

-- The period that ends keep_ms from now, or soon after that.
local function open_period(index, keep_ms)
  local periods, period, current = key.index_periods .. index, math.floor((now + keep_ms) / PERIOD_MS), now / PERIOD_MS
  if call('SADD', periods, period) == 1 then
    for _, each in ipairs(call('SMEMBERS', periods)) do
      if tonumber(each) + 1 < current then call('SREM', periods, each) end
    end
  end
  return period
end

-- A list that was full is not used again while it is continued, so that the order of its entries and theirs stays that of time.
local function has_room(name, continuation)
  return call('LLEN', name) < CAPACITY and call('EXISTS', continuation) == 0
end

-- Add an entry, or make it the newest.
local function add_to_bucket(index, period, digits, entry)
  local count, name = MIN_DIGITS, bucket_name(index, period, digits, MIN_DIGITS)
  call('LREM', name, 1, entry)
  while count < MAX_DIGITS do
    count = count + 1
    local continuation = bucket_name(index, period, digits, count)
    if has_room(name, continuation) then break end
    name = continuation
    call('LREM', name, 1, entry)
  end
  local length = call('RPUSH', name, entry)
  if length == 1 then call('PEXPIREAT', name, (period + 1) * PERIOD_MS) end
  if length > CAPACITY then call('LPOP', name) end
end

-- Call handle(name) for each list that may have entries of a digest: those that expire last first, and of these the newest first.
local function each_bucket(index, digits, handle)
  local periods = call('SMEMBERS', key.index_periods .. index)
  table.sort(periods, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, period in ipairs(periods) do
    for count = MAX_DIGITS, MIN_DIGITS, -1 do handle(bucket_name(index, period, digits, count)) end
  end
end
