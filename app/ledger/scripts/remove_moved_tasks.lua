#!lua flags=allow-oom,allow-cross-slot-keys
--- remove_moved_tasks: Remove tasks that have moved to another cell, with their jobs. A replay counts them as failed.
--- @varargs tasks
--- @include lib/jobs
--- @include lib/operations

for _, task in ipairs(tasks) do
  local state, jobs, queue, operation = get_fields(task, 'state', 'jobs', 'queue', 'operation')
  remove_from_state(task, state)
  call('ZREM', queue_key(task, queue), job_of(task, jobs))
  if operation then
    stop_tracking(operation, task)
    add_to_operation(operation, 'failed:account_moves', task)
  end
  call('UNLINK', key.task .. task)
end
