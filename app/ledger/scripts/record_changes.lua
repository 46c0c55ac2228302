#!lua flags=allow-oom,allow-cross-slot-keys
--- record_changes: Store the changes of a translated event and end its lease.
--- reason: why the event is parked although its certain changes are stored, or ''.
--- @args delivery token changes_seen attempt keep_ms reason
--- @varargs changes: task change previous start
--- @returns ok | lost; {limit} if a visit accepts no more changes: then nothing was written
--- @include lib/changes
--- @include lib/attempts
--- @include lib/operations

local task = 'event:' .. delivery
local hash = key.task .. task

-- Remove the changes of an earlier translation of this delivery.
local function retract_changes(targets)
  for target in string.gmatch(targets, '%S+') do
    local retracted = 0
    for _, field in ipairs(call('HKEYS', key.task .. target)) do
      local is_own = string.match(field, '^change:(.*)%.%d+$') == delivery
      if is_own then retracted = retracted + delete_value(key.task .. target, field) end
    end
    if retracted > 0 then
      call('HINCRBY', key.task .. target, 'changes', 1)
      enqueue_if_idle(walk_links(target))
    end
  end
end

-- The outcome of a translated event is that of its visits.
local function track_visits(operation, former_targets)
  local has_visits = false
  for visit in string.gmatch(task_names(changes) .. ' ' .. former_targets, '%S+') do
    has_visits = true
    track(operation, visit)
    settle(operation, visit, primary_of(walk_links(visit)))  -- it is done already if nothing changed
  end
  if has_visits then return stop_tracking(operation, task) end
  settle(operation, task, task)
end

local lease, replaces_changes, targets, operation = get_fields(task, 'lease', 'replaces_changes', 'targets', 'operation')
if lease ~= token then return 'lost' end
local limit = first_exceeded_limit(changes)
if limit then return {limit} end
if replaces_changes then retract_changes(targets or '') end
add_changes(delivery, changes, replaces_changes)
record_attempt(task, attempt)
call('HSET', hash, 'applied', changes_seen, 'targets', task_names(changes))
if reason == '' then
  finish(task, keep_ms)
else
  park(task, reason)
  call('HDEL', hash, 'failed_attempts', 'failed_since')
end
if get_fields(task, 'changes') ~= changes_seen then
  enqueue_again(task)
else
  call('HDEL', hash, 'replaces_changes')
end
if operation then
  if get_fields(task, 'state') then
    settle(operation, task, task)
  else
    track_visits(operation, replaces_changes and targets or '')
  end
end
return 'ok'
