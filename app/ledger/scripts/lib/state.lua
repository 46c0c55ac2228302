--- The state of a task.
--- The state of a visit with several ids is in the hash of its primary id, the first one. Another id has a state only if it got it
--- before the ids were linked, until the next run begins or is put off. During a run all ids are `running`.
--- @include lib/tasks
--- @include lib/deliveries

local function delivery_of(task) return string.match(task, '^event:(.*)$') end

-- The settings may lose an account while some of its tasks are held or parked. This set still contains it.
local function remember_account(task)
  if kind_of(task) == 'visit' then call('SADD', key.accounts, account_of(task)) end
end

-- Not for `held`: circuit.lua.
local function set_state(task, state, score)
  remove_from_state(task, get_fields(task, 'state'))
  if state == 'parked' then remember_account(task) end
  call('ZADD', state_key(task, state), score, task)
  call('HSET', key.task .. task, 'state', state)
end

-- The API may have the visit from now on, although no answer is in `remote`.
local function note_attempt(task)
  if kind_of(task) == 'visit' and not get_fields(task, 'remote') then call('HSET', key.task .. task, 'attempted', 1) end
end

local function is_leased(task, state)
  return state == 'running' and tonumber(call('ZSCORE', key.running, task) or 0) > now
end
