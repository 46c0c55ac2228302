--- The circuit of an account. Its hash exists while the circuit is open.
--- @field kind down, unauthorized, rate_limited or paused
--- @field since when it opened
--- @field until when the next probe may run
--- @field limited_until until when the API allows no calls, as a 429 said
--- @field failures how many calls failed in a row since its kind last changed
--- @field probe the task that may run although the circuit is open
--- @field failed_source the source of the last probe that failed
--- @include lib/state
--- @include lib/progress
--- @include lib/values
--- @include lib/change_time

local function source_of(task) return string.match(task, '/([^-]*)') end

-- The time in the newest change with a time of one id; or nil.
local function newest_time(task)
  local newest_order, newest = -math.huge, nil
  for _, value in pairs(load_values(key.task .. task, 'change:')) do
    local change = cjson.decode(string.match(value, '^%d+ (.*)$'))
    local time = time_in(change)
    if time and change.o > newest_order then newest_order, newest = change.o, time end
  end
  return newest
end

-- The time of a visit, from the newest id that has one. It only orders held tasks, so the changes are not merged. A visit without a
-- time is first: its change may be a cancellation.
local function held_rank(aliases)
  for i = #aliases, 1, -1 do
    local time = newest_time(aliases[i].task)
    if time then return time_rank(time) end
  end
  return 0
end

-- Held tasks are ordered by the start of their visit, those with failed attempts last. A second set orders them by age, so that
-- later tasks cannot overtake a task forever.
-- aliases: all ids of the visit, the primary first, in the order of renaming.
local function hold(aliases, reason)
  local task = aliases[1].task
  local account = account_of(task)
  local state, failed_attempts, pending_since = get_fields(task, 'state', 'failed_attempts', 'pending_since')
  remove_from_state(task, state)
  remember_account(task)
  call('ZADD', key.held .. account, held_rank(aliases) + (failed_attempts and 1e14 or 0), task)
  call('ZADD', key.held_by_age .. account, pending_since or now, task)
  call('HSET', key.task .. task, 'state', 'held', 'reason', reason, 'pending_since', pending_since or now)
  call('HDEL', key.task .. task, 'retry_at')
end

-- The newest outcomes of an account's calls: `+<time>` for a success, the task for its first failure.
local MAX_OUTCOMES, OUTCOMES_TTL_S = 20, 60
local function record_outcome(outcomes, outcome)
  call('LPUSH', outcomes, outcome)
  call('LTRIM', outcomes, 0, MAX_OUTCOMES - 1)
  call('EXPIRE', outcomes, OUTCOMES_TTL_S)
end

-- Is the API down, or does it fail only for this visit? It is down if most of the newest outcomes are first failures of
-- different visits, at least `threshold` of them. Only this visit fails if it failed before, or if another visit succeeded
-- during this run or within the last second.
local function is_outage(outcomes, threshold, task, took_ms)
  if get_fields(task, 'failed_attempts') then return false end
  local failed, succeeded = 1, 0
  for _, outcome in ipairs(call('LRANGE', outcomes, 0, MAX_OUTCOMES - 2)) do
    local at = tonumber(string.match(outcome, '^%+(%d+)$'))
    if outcome == task or at and at <= now and now - at < math.max(took_ms, 1000) then return false end
    if at then succeeded = succeeded + 1 else failed = failed + 1 end
  end
  record_outcome(outcomes, task)
  return failed >= threshold and succeeded * 4 <= failed
end

-- Apply the signal of a run to the circuit of its account. A success closes the circuit, unless the API allows no calls yet: the
-- run then began before the 429. While the circuit is open, only `down` of its probe counts, and each doubles the wait. It stays
-- open until a call succeeds, so `since` shows how long none did, even if each wait of a rate limit is short. If an operator paused
-- the account, only the time that a 429 named is stored.
local function update_circuit(account, signal, wait_ms, threshold, task, took_ms)
  local circuit, outcomes = key.circuit .. account, key.outcomes .. account
  local kind, probe, limited_until = unpack(call('HMGET', circuit, 'kind', 'probe', 'limited_until'))
  limited_until = tonumber(limited_until or 0)
  if kind == 'paused' then
    if signal == 'rate_limited' then call('HSET', circuit, 'limited_until', math.max(now + wait_ms, limited_until)) end
    return
  end
  if signal == 'ok' then
    record_outcome(outcomes, '+' .. string.format('%.0f', now))
    if kind and limited_until <= now then
      call('DEL', circuit)
      note_progress()  -- the time while calls were stopped must not count as a lack of progress
    end
    return
  end
  if signal == 'down' then
    if kind and probe ~= task or not kind and not is_outage(outcomes, threshold, task, took_ms) then return end
  end
  call('SADD', key.circuits, account)
  call('HSETNX', circuit, 'since', now)
  if signal == 'down' and kind then call('HSET', circuit, 'failed_source', source_of(task)) end
  if kind ~= signal then call('HDEL', circuit, 'failures') end
  local failures = call('HINCRBY', circuit, 'failures', 1)
  if signal == 'down' then wait_ms = math.min(wait_ms, 1000 * 2 ^ (failures - 1)) end
  -- A call that was sent before may be answered without the time that the API named to another one.
  local open_until = math.max(now + wait_ms, limited_until)
  if signal == 'rate_limited' then call('HSET', circuit, 'limited_until', open_until) end
  call('HSET', circuit, 'kind', signal, 'until', open_until)
  call('HDEL', circuit, 'probe')
end
