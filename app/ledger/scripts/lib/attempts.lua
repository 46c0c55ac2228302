--- Attempts of a task: fields `attempt:<number>` of its hash, the newest hundred.
--- @include lib/state

local MAX_ATTEMPTS = 100

local function record_attempt(task, attempt)
  local hash = key.task .. task
  local number = call('HINCRBY', hash, 'attempts', 1)
  call('HSET', hash, 'attempt:' .. number, attempt)
  if number > MAX_ATTEMPTS then call('HDEL', hash, 'attempt:' .. number - MAX_ATTEMPTS) end
  -- For `doorbell tail` and the live pages. A server whose ACL forbids publishing loses nothing else.
  redis.pcall('PUBLISH', key.attempts_channel, task .. ' ' .. attempt)
end

-- Leave a task to an operator, without a run. sentence: must need no escapes in JSON.
local function park(task, reason, sentence)
  local hash = key.task .. task
  note_progress()
  set_state(task, 'parked', now)
  call('HDEL', hash, 'lease', 'job', 'retry_at', 'queue', 'probes', 'token_rejections', 'expired_leases')
  call('HSET', hash, 'reason', reason)
  call('HSETNX', hash, 'pending_since', now)
  record_attempt(task, string.format('{"started_at_ms":%.0f,"took_ms":0,"outcome":"parked","calls":[],"response_text":"%s"}', now, sentence))
  count_finished(task, 'parked')
end
