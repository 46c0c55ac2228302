--- The outcomes of the tasks of an operation: the field `operation` of a task that a replay requeued, until its run decides.
--- An operation has the number of its tasks by outcome in its fields `tasks:<outcome>`, and the newest in sorted sets:
--- pending, succeeded, discarded, replayed (again, by a later operation), or `failed:` and the reason without its details.
--- @include lib/tasks

local MAX_TASKS, OPERATION_TTL_S = 10000, 90 * 86400

local function add_to_operation(operation, outcome, task)
  local hash = key.operation .. operation
  local tasks = hash .. ':tasks:' .. outcome
  if call('EXISTS', hash) == 0 then return end
  if call('ZADD', tasks, now, task) == 1 then call('HINCRBY', hash, 'tasks:' .. outcome, 1) end
  call('ZREMRANGEBYRANK', tasks, 0, -MAX_TASKS - 1)
  call('EXPIRE', tasks, OPERATION_TTL_S)
end

local function stop_tracking(operation, task)
  local hash = key.operation .. operation
  call('HDEL', key.task .. task, 'operation')
  call('ZREM', hash .. ':tasks:pending', task)
  if call('EXISTS', hash) == 1 then call('HINCRBY', hash, 'tasks:pending', -1) end
end

-- operation: '' if none requeued the task.
local function track(operation, task)
  local previous = get_fields(task, 'operation')
  if operation == '' or operation == previous then return end
  if previous then
    stop_tracking(previous, task)
    add_to_operation(previous, 'replayed', task)
  end
  call('HSET', key.task .. task, 'operation', operation)
  add_to_operation(operation, 'pending', task)
end

-- Record the outcome of a task that is done, parked or discarded. primary: the first id of the visit, which has the state.
local function settle(operation, task, primary)
  local state, reason = get_fields(primary, 'state', 'reason')
  local outcome
  if not state then
    outcome = 'succeeded'
  elseif state == 'discarded' then
    outcome = 'discarded'
  elseif state == 'parked' then
    outcome = 'failed:' .. string.sub(string.match(reason or '', '^[a-z_]+') or reason or '', 1, 100)
  else
    return
  end
  stop_tracking(operation, task)
  add_to_operation(operation, outcome, task)
end
