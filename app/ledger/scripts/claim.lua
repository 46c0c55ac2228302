#!lua flags=allow-oom,allow-cross-slot-keys
--- claim: Give jobs to a worker, the earliest due first.
--- A claimed job becomes due again when its lease ends, so that the jobs of a dead worker return. A job whose account has no free
--- slots becomes due a second later. A visit whose account has an open circuit is held, without a run.
--- full: `<queue>:<account>` without free slots, separated by spaces.
--- @args expected_ms lease_ms full
--- @varargs rooms: queue slots
--- @returns [1 if more jobs may be due and free slots remain, queue, job, when it was due…]
--- @include lib/clock_check
--- @include lib/jobs
--- @include lib/circuit_reasons

local POSTPONE_MS, MAX_POSTPONED = 1000, 1000
local MAX_HELD = 100  -- per call, during which deliveries wait

-- The open circuits of the accounts whose jobs are due; {} for none.
local circuits, has_circuits = {}, call('EXISTS', key.circuits) == 1
local function circuit_of(account)
  if not circuits[account] then
    local kind, probe = unpack(call('HMGET', key.circuit .. account, 'kind', 'probe'))
    circuits[account] = {kind = call('EXISTS', key.move .. account) == 0 and kind, probe = probe}
  end
  return circuits[account]
end

-- Why the visit of this job is held, or nil. The probe of a circuit may run; what is less simple, lease.lua decides.
local function reason_to_hold(job, account)
  local task, circuit = string.match(job, '^(.*)#'), circuit_of(account)
  if not task or not circuit.kind or circuit.probe == task then return end
  local state, number, is_linked, was_released = get_fields(task, 'state', 'jobs', 'linked', 'released')
  if state ~= 'queued' or job ~= job_of(task, number) or is_linked or was_released then return end
  return CIRCUIT_REASONS[circuit.kind]
end

local jumped = clock_error(expected_ms)
if jumped then return jumped end
local claimed, to_hold, is_full = {0}, {}, {}
for name in string.gmatch(full, '%S+') do is_full[name] = true end
for _, room in ipairs(rooms) do
  local jobs, slots = key.queue .. room.queue, tonumber(room.slots)
  local limit = slots + (next(is_full) and MAX_POSTPONED or 0) + (has_circuits and MAX_HELD or 0)
  local due = call('ZRANGEBYSCORE', jobs, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #due, 2 do
    local job, due_ms = due[i], due[i + 1]
    local account = kind_of(job) == 'visit' and account_of(job)
    local reason = has_circuits and account and reason_to_hold(job, account)
    if reason and #to_hold < MAX_HELD then
      to_hold[#to_hold + 1] = {task = string.match(job, '^(.*)#'), job = job, jobs = jobs, reason = reason}
    elseif reason then
      claimed[1] = 1
      break
    elseif account and is_full[room.queue .. ':' .. account] then
      call('ZADD', jobs, now + POSTPONE_MS, job)
    elseif slots > 0 then
      slots = slots - 1
      call('ZADD', jobs, now + lease_ms, job)
      for _, part in ipairs({room.queue, job, due_ms}) do claimed[#claimed + 1] = part end
    end
  end
end
if #to_hold == 0 then return claimed end

--- @include lib/circuit

for _, each in ipairs(to_hold) do
  hold({{task = each.task}}, each.reason)
  call('ZREM', each.jobs, each.job)
end
return claimed
