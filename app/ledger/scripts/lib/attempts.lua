--- Attempts of a task: the newest hundred, in fields `attempt:<number>` of its hash.
--- @include lib/tasks
--- @include lib/values

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
