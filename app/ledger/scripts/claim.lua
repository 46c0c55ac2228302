#!lua flags=allow-oom,allow-cross-slot-keys
--- claim: Give jobs to a worker, the earliest due first.
--- A claimed job becomes due again when its lease ends, so that the jobs of a dead worker return. A job whose account has no free
--- slots becomes due a second later.
--- full: `<queue>:<account>` without free slots, separated by spaces.
--- @args expected_ms lease_ms full
--- @varargs rooms: queue slots
--- @returns [queue, job, when it was due…]
--- @include lib/clock_check
--- @include lib/tasks

local POSTPONE_MS, MAX_POSTPONED = 1000, 1000

local jumped = clock_error(expected_ms)
if jumped then return jumped end
local claimed, is_full = {}, {}
for name in string.gmatch(full, '%S+') do is_full[name] = true end
for _, room in ipairs(rooms) do
  local jobs, slots = key.queue .. room.queue, tonumber(room.slots)
  local limit = next(is_full) and slots + MAX_POSTPONED or slots
  local due = call('ZRANGEBYSCORE', jobs, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #due, 2 do
    local job, due_ms = due[i], due[i + 1]
    local account = kind_of(job) == 'visit' and account_of(job)
    if account and is_full[room.queue .. ':' .. account] then
      call('ZADD', jobs, now + POSTPONE_MS, job)
    elseif slots > 0 then
      slots = slots - 1
      call('ZADD', jobs, now + lease_ms, job)
      for _, part in ipairs({room.queue, job, due_ms}) do claimed[#claimed + 1] = part end
    end
  end
end
return claimed
