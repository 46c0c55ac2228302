--- Attempts of a task: the newest hundred, in fields `attempt:<number>` of its hash.
--- @include lib/state
--- @include lib/values
--- @include lib/operations

local MAX_ATTEMPTS = 100

local function record_attempt(task, attempt)
  local hash, number = key.task .. task, 1
  if get_fields(task, 'attempts') or call('HEXISTS', hash, 'attempt:1') == 1 then
    number = 1 + call('HINCRBY', hash, 'attempts', 1)
  end
  call('HSET', hash, cut('attempt:' .. number, attempt))
  if number > MAX_ATTEMPTS then delete_value(hash, 'attempt:' .. number - MAX_ATTEMPTS) end
  -- For `doorbell tail` and the live pages. pcall: an ACL may forbid PUBLISH.
  redis.pcall('PUBLISH', key.attempts_channel, task .. ' ' .. attempt)
end

-- Park a task without a run. details: text that needs no escapes in JSON.
local function park_without_run(task, reason, details)
  park(task, reason)
  call('HSETNX', key.task .. task, 'pending_since', now)
  record_attempt(task, string.format('[%.0f,0,"parked",[],"%s"]', now, details))
  count_finished(task, 'parked')
  local operation = get_fields(task, 'operation')
  if operation then settle(operation, task, task) end
end
