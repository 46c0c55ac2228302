--- How a run ends, or a task without one.
--- @include lib/state
--- @include lib/progress

-- For an id whose visit has its state elsewhere.
local function clear_state(task)
  remove_from_state(task, get_fields(task, 'state'))
  call('HDEL', key.task .. task, 'state', 'lease', 'expired_leases')
end

local function wait(task, due, reason)
  set_state(task, 'waiting', due)
  call('HSET', key.task .. task, 'retry_at', due, 'reason', reason)
end

local function park(task, reason)
  note_progress()
  set_state(task, 'parked', now)
  call('HDEL', key.task .. task, 'lease', 'retry_at', 'queue', 'probes', 'token_rejections', 'expired_leases')
  call('HSET', key.task .. task, 'reason', reason)
end

local function finish(task, keep_ms)
  local hash, delivery = key.task .. task, delivery_of(task)
  note_progress()
  remove_from_state(task, get_fields(task, 'state'))
  call('HDEL', hash, 'state', 'lease', 'queue', 'pending_since', 'retry_at', 'failed_attempts', 'failed_since', 'reason',
    'probes', 'token_rejections', 'expired_leases')
  call('PEXPIRE', hash, keep_ms)
  if delivery then call('PEXPIRE', delivery_key(delivery), keep_ms) end
end

local function count_finished(task, result)
  call('HINCRBY', key.metrics, 'doorbell_tasks_finished_total|' .. kind_of(task) .. '|' .. result, 1)
end
