--- A task: its name, the fields of its hash, and the sorted set of tasks in its state.
--- @include lib/clock

local function get_fields(task, ...) return unpack(call('HMGET', key.task .. task, ...)) end

local function kind_of(task) return string.match(task, '^%a+') end
local function account_of(task) return string.match(task, '^%a+:([^/]*)/') end

local function state_key(task, state)
  return state == 'held' and key.held .. account_of(task) or key.state .. state
end

local function remove_from_state(task, state)
  if state then call('ZREM', state_key(task, state), task) end
  if state == 'held' then call('ZREM', key.held_by_age .. account_of(task), task) end
end

-- Will a run that is already scheduled see a new change? A task in backoff will. A task that waits for missing facts will
-- not: the new change may supply them.
local function is_scheduled(state, failed_since)
  return state == 'queued' or state == 'running' or state == 'held' or (state == 'waiting' and failed_since)
end
