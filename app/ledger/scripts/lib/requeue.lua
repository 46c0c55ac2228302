--- Requeues tasks for an operator.
--- @include lib/queue

-- queue: '' | replays. -> queued | running
local function requeue(task, queue)
  local hash = key.task .. task
  local state = get_fields(task, 'state')
  call('HDEL', hash, 'failed_since', 'retry_at', 'expired_leases', 'repeated_at')
  if delivery_of(task) then call('HSET', hash, 'last_event_at', now) end  -- the run fetches the record again
  if state == 'running' then
    call('HINCRBY', hash, 'changes', 1)  -- the end of the run requeues the task
    return 'running'
  end
  call('HDEL', hash, 'failed_attempts', 'reason')
  if state == 'queued' then return 'queued' end
  if queue ~= '' then call('HSET', hash, 'queue', queue) end
  enqueue(task)
  return 'queued'
end
