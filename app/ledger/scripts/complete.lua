#!lua flags=allow-oom,allow-cross-slot-keys
--- complete: End a lease and store the outcome of the run.
--- outcome: done | waiting | held | parked.
--- is_applied: 1 if the visit in the API has all changes that the run read, 0 if some are still to be applied.
--- retry_in_ms: the time until a waiting task runs again.
--- in_flight_ms: how long no run may begin, because a call may still change the visit; 0 if all calls have ended.
--- reason: why the task is waiting, held or parked, or ''.
--- attempt: a JSON list that begins with when it started and how many ms it took, or ''.
--- may_exist: 1 if the API may have the visit although no answer is stored, because the run sent a create; 0 if Doorbell never sent
--- one; '' if the run does not know.
--- keep_ms: how long a task that is done is stored.
--- circuit: the account, or ''.
--- signal: what the run reports about the API: ok | down | unauthorized | rate_limited | ''; wait_ms and threshold belong to it.
--- failed_attempts: '' resets the count.
--- members: all ids of the visit, the primary first; changes: how many the run read.
--- remote, start: the new values of these fields of the task, '' to leave one unchanged, '-' to delete it.
--- unlist, list: when the visit started before and starts now, or '' if both are the same.
--- @args token outcome is_applied may_exist retry_in_ms in_flight_ms reason attempt keep_ms circuit signal wait_ms threshold failed_attempts
--- @varargs members: task changes remote start unlist list
--- @returns the outcome, which is parked for a visit that is rejected again and again; or lost
--- @include lib/transitions
--- @include lib/attempts
--- @include lib/circuit
--- @include lib/visit_days

local MAX_TOKEN_REJECTIONS = 10
local primary = members[1].task
local hash = key.task .. primary

-- Does the API reject the token again and again for a visit that was no probe? It may reject it for this visit only, and each time
-- the circuit of the account would open. Such a visit is parked.
local function is_rejected_alone()
  return call('HGET', key.circuit .. circuit, 'probe') ~= primary
    and call('HINCRBY', hash, 'token_rejections', 1) >= MAX_TOKEN_REJECTIONS
end

local function park_instead()
  outcome = 'parked'
  attempt = string.gsub(attempt, '^(%[%d+,%d+,)"[^"]*"', '%1"parked: ' .. string.gsub(reason, '%%', '%%%%') .. '"')
end

local function apply_signal()
  if signal ~= '' then
    local took_ms = tonumber(string.match(attempt, '^%[%d+,(%d+)')) or 0
    update_circuit(circuit, signal, tonumber(wait_ms), tonumber(threshold), primary, took_ms)
  elseif circuit ~= '' and call('HGET', key.circuit .. circuit, 'probe') == primary then
    -- The probe made no call. Another task becomes the probe.
    call('HSET', key.circuit .. circuit, 'until', now)
    call('HDEL', key.circuit .. circuit, 'probe')
  end
end

local function store_remote(member)
  if member.remote == '-' then
    delete_value(key.task .. member.task, 'remote')
  elseif member.remote ~= '' then
    replace_value(key.task .. member.task, 'remote', member.remote)
  end
  if member.remote ~= '' then call('HDEL', key.task .. member.task, 'attempted') end
end

local function store_start(member)
  if member.start == '-' then
    call('HDEL', key.task .. member.task, 'start')
  elseif member.start ~= '' then
    call('HSET', key.task .. member.task, 'start', member.start)
  end
  if member.unlist ~= '' then remove_from_day(member.task, member.unlist) end
  if member.list ~= '' then add_to_day(member.task, member.list) end
end

local function store_unfinished()
  if outcome == 'parked' then
    park(primary, reason)
  elseif outcome == 'held' then
    call('HDEL', hash, 'lease', 'retry_at', 'expired_leases')
    hold(members, reason)
  else
    call('HDEL', hash, 'lease', 'expired_leases')
    wait(primary, now + retry_in_ms, reason)
  end
  if failed_attempts ~= '' then
    call('HSET', hash, 'failed_attempts', failed_attempts)
    call('HSETNX', hash, 'failed_since', now)
  elseif outcome ~= 'held' then
    call('HDEL', hash, 'failed_attempts', 'failed_since')
  end
end

for _, member in ipairs(members) do
  local lease, operation = get_fields(member.task, 'lease', 'operation')
  if lease ~= token then return 'lost' end
  member.operation = operation
end
if signal == 'unauthorized' and is_rejected_alone() then park_instead() else apply_signal() end
if attempt ~= '' then record_attempt(primary, attempt) end
for i, member in ipairs(members) do
  store_remote(member)
  store_start(member)
  if is_applied == '1' then call('HSET', key.task .. member.task, 'applied', member.changes) end
  if outcome == 'done' then
    finish(member.task, keep_ms)
  elseif i > 1 then
    clear_state(member.task)
    call('HSETNX', hash, 'pending_since', now)
  end
end
-- The lease stored `attempted` in case the run dies, unless there was an answer, which the run may have deleted before its create.
if may_exist == '0' then call('HDEL', hash, 'attempted') elseif may_exist == '1' then note_attempt(primary) end
if outcome ~= 'done' then store_unfinished() end
if in_flight_ms ~= '0' then call('HSET', hash, 'in_flight_until', now + in_flight_ms) end
local changed, is_tracked = {}, false
for _, member in ipairs(members) do
  is_tracked = is_tracked or member.operation
  if (get_fields(member.task, 'changes') or '0') ~= member.changes then
    changed[#changed + 1] = member.task
  elseif outcome == 'done' then
    call('HDEL', key.task .. member.task, 'recheck', 'replaces_changes', 'in_flight_until')
  end
end
if #changed == 0 and not is_tracked then return outcome end

-- Redis creates the functions of a script for each call, which takes as long as commands do: most calls end above.
--- @include lib/queue
--- @include lib/operations

-- Changes or events arrived during the run. An event whose task waits will be fetched again anyway.
for _, task in ipairs(changed) do
  if kind_of(task) == 'visit' then
    enqueue_if_idle(walk_links(task))
  elseif outcome == 'done' or outcome == 'parked' then
    enqueue_again(task)
  end
end
for _, member in ipairs(members) do
  if member.operation then settle(member.operation, member.task, primary) end
end
return outcome
