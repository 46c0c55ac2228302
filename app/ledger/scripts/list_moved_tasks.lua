#!lua flags=allow-oom,allow-cross-slot-keys
--- list_moved_tasks: Add the tasks of an account that has arrived to the sets of their states, and their jobs to the queues.
--- score, age: those in the cell that they left; '' for now. Tasks that are listed already are not changed.
--- @varargs tasks: task score age
--- @include lib/jobs

for _, item in ipairs(tasks) do
  local task = item.task
  local state, jobs, queue = get_fields(task, 'state', 'jobs', 'queue')
  local function add(set, score, member) call('ZADD', set, 'NX', score ~= '' and score or now, member) end
  if state then add(state_key(task, state), item.score, task) end
  if state == 'held' then add(key.held_by_age .. account_of(task), item.age, task) end
  if state == 'queued' then add(queue_key(task, queue), item.score, job_of(task, jobs)) end
end
