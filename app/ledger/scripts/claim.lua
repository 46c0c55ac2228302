#!lua flags=allow-oom,allow-cross-slot-keys
--- claim: Give jobs to a worker, those due longest first.
--- A claimed job becomes due again when the lease ends, so that the jobs of a dead worker come back and running ones do not
--- come before those behind them. A job for whose account there is no room becomes due a second later.
--- full: `<queue>:<account>` without room, separated by spaces.
--- @args expected_ms lease_ms full
--- @rest rooms: queue places
--- @returns [queue, job, payload or ''…]
--- @include lib/clock_check
--- @include lib/tasks

local POSTPONE_MS, MAX_POSTPONED = 1000, 1000

local jumped = clock_error(expected_ms)
if jumped then return jumped end
local claimed, is_full = {}, {}
for share in string.gmatch(full, '%S+') do is_full[share] = true end
for _, room in ipairs(rooms) do
  local jobs, places = key.queue .. room.queue, tonumber(room.places)
  local limit = next(is_full) and places + MAX_POSTPONED or places
  for _, job in ipairs(call('ZRANGEBYSCORE', jobs, '-inf', now, 'LIMIT', 0, limit)) do
    local account = kind_of(job) == 'visit' and account_of(job)
    if account and is_full[room.queue .. ':' .. account] then
      call('ZADD', jobs, now + POSTPONE_MS, job)
    elseif places > 0 then
      places = places - 1
      call('ZADD', jobs, now + lease_ms, job)
      for _, part in ipairs({room.queue, job, call('GET', key.job .. job) or ''}) do claimed[#claimed + 1] = part end
    end
  end
end
return claimed
