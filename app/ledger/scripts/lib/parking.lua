--- Parks tasks that cannot run.
--- @include lib/transitions
--- @include lib/attempts
--- @include lib/operations

local function settle_parked(task, primary)
  local operation = get_fields(task, 'operation')
  if operation then settle(operation, task, primary) end
end

-- aliases: of the visit, beyond the limits perhaps without the task. An operation may have requeued any of them.
-- details: text that needs no escapes in JSON.
local function park_without_run(task, aliases, reason, details)
  park(task, reason)
  call('HSETNX', key.task .. task, 'pending_since', now)
  record_attempt(task, string.format('[%.0f,0,"parked",[],"%s"]', now, details))
  count_finished(task, 'parked')
  settle_parked(task, task)
  for _, alias in ipairs(aliases) do settle_parked(alias.task, task) end
end
