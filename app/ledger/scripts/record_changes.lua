#!lua flags=allow-oom,allow-cross-slot-keys
--- record_changes: End the lease on an event with the changes that it means.
--- reason: why an operator is needed for the rest of the event, or ''.
--- @args delivery token changes_seen attempt keep_ms reason
--- @rest changes: task change previous
--- @returns ok | lost; {bound} if a visit takes no more: nothing was written then
--- @include lib/changes
--- @include lib/attempts

local task = 'event:' .. delivery
local hash = key.task .. task

-- A retranslation replaces what the delivery meant before.
local function retract_changes(targets)
  local prefix = 'change:' .. delivery .. '.'
  for target in string.gmatch(targets, '%S+') do
    local retracted = 0
    for _, field in ipairs(call('HKEYS', key.task .. target)) do
      if string.sub(field, 1, #prefix) == prefix then retracted = retracted + call('HDEL', key.task .. target, field) end
    end
    if retracted > 0 then
      call('HINCRBY', key.task .. target, 'changes', 1)
      enqueue_if_idle(target)
    end
  end
end

local lease, replaces_changes, targets = get_fields(task, 'lease', 'replaces_changes', 'targets')
if lease ~= token then return 'lost' end
local bound = first_exceeded_bound(changes)
if bound then return {bound} end
if replaces_changes then retract_changes(targets or '') end
add_changes(delivery, changes, replaces_changes)
record_attempt(task, attempt)
call('HSET', hash, 'applied', changes_seen, 'targets', task_names(changes))
if reason == '' then
  finish(task, keep_ms)
else
  note_progress()
  set_state(task, 'parked', now)
  call('HDEL', hash, 'lease', 'job', 'retry_at', 'queue', 'failed_attempts', 'failed_since', 'expired_leases')
  call('HSET', hash, 'reason', reason)
end
if get_fields(task, 'changes') ~= changes_seen then
  enqueue_repeat(task)
else
  call('HDEL', hash, 'replaces_changes')
end
return 'ok'
