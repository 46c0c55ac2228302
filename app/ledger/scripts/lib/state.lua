--- Changes of the state of a task.
--- @include lib/tasks

local function delivery_of(task) return string.match(task, '^event:(.*)$') end

local function set_state(task, state, score)
  remove_from_state(task, get_fields(task, 'state'))
  -- An account may leave the settings while an operator is needed for some of its tasks: this set still names it.
  if (state == 'held' or state == 'parked') and kind_of(task) == 'visit' then call('SADD', key.accounts, account_of(task)) end
  call('ZADD', state_key(task, state), score, task)
  call('HSET', key.task .. task, 'state', state)
end

-- The time at which a task was last done. An alert is raised if it does not change while tasks are due.
local function note_progress() call('SET', key.last_done, now) end

local function finish(task, keep_ms)
  local hash, delivery = key.task .. task, delivery_of(task)
  note_progress()
  remove_from_state(task, get_fields(task, 'state'))
  call('HDEL', hash, 'state', 'lease', 'job', 'queue', 'pending_since', 'retry_at', 'failed_attempts', 'failed_since', 'reason',
    'probes', 'token_rejections', 'expired_leases')
  call('PEXPIRE', hash, keep_ms)
  if delivery then call('PEXPIRE', key.delivery .. delivery, keep_ms) end
end

local function is_leased(task, state)
  return state == 'running' and tonumber(call('ZSCORE', key.running, task) or 0) > now
end

-- The names in a page of a set that are names of tasks. Others can only come from a stranger with access to Redis; they are
-- removed, since they would fail every script that reads the set.
local function valid_tasks(set, page)
  local tasks = {}
  for _, name in ipairs(page) do
    if string.find(name, '^visit:[^/]+/.') or string.find(name, '^event:.') then
      tasks[#tasks + 1] = name
    else
      call('ZREM', set, name)
    end
  end
  return tasks
end

local function count_finished(task, result)
  call('HINCRBY', key.metrics, 'doorbell_tasks_finished_total|' .. kind_of(task) .. '|' .. result, 1)
end
