--- Parks tasks that cannot run.
--- @include lib/transitions
--- @include lib/attempts
--- @include lib/operations

-- details: text that needs no escapes in JSON.
local function park_without_run(task, reason, details)
  park(task, reason)
  call('HSETNX', key.task .. task, 'pending_since', now)
  record_attempt(task, string.format('[%.0f,0,"parked",[],"%s"]', now, details))
  count_finished(task, 'parked')
  local operation = get_fields(task, 'operation')
  if operation then settle(operation, task, task) end
end
