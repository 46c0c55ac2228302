--- State transitions of tasks.
--- The state of a visit with several ids is in the hash of its primary id, the first one. Another id has a state only if it got it
--- before the ids were linked, until the next run begins or is put off. During a run all ids are `running`.
--- @include lib/tasks
--- @include lib/deliveries

local function delivery_of(task) return string.match(task, '^event:(.*)$') end

local function set_state(task, state, score)
  remove_from_state(task, get_fields(task, 'state'))
  -- The settings may lose an account while some of its tasks are unfinished. This set still contains it.
  if (state == 'held' or state == 'parked') and kind_of(task) == 'visit' then call('SADD', key.accounts, account_of(task)) end
  call('ZADD', state_key(task, state), score, task)
  call('HSET', key.task .. task, 'state', state)
end

-- For an id whose visit has its state elsewhere.
local function clear_state(task)
  remove_from_state(task, get_fields(task, 'state'))
  call('HDEL', key.task .. task, 'state', 'lease', 'expired_leases')
end

-- Store the time at which a task last ended. An alert starts if it does not change while tasks are due.
local function note_progress() call('SET', key.last_done, now) end

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

-- The API may have a visit after its first lease, although it has no answer in `remote`.
local function note_attempt(task)
  if kind_of(task) == 'visit' and not get_fields(task, 'remote') then call('HSET', key.task .. task, 'attempted', 1) end
end

local function is_leased(task, state)
  return state == 'running' and tonumber(call('ZSCORE', key.running, task) or 0) > now
end

-- The members of a page of a set that are task ids. Doorbell writes no others; they are removed from the set, since every script
-- that reads them would fail.
local function valid_tasks(set, page)
  local tasks = {}
  for _, member in ipairs(page) do
    if string.find(member, '^visit:[^/]+/.') or string.find(member, '^event:.') then
      tasks[#tasks + 1] = member
    else
      call('ZREM', set, member)
    end
  end
  return tasks
end

local function count_finished(task, result)
  call('HINCRBY', key.metrics, 'doorbell_tasks_finished_total|' .. kind_of(task) .. '|' .. result, 1)
end
