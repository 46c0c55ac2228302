--- The circuit of an account. Its hash exists while the circuit is open.
--- @field kind down, unauthorized, rate_limited or paused
--- @field since when it opened
--- @field until when a probe may go, or all, if it is rate_limited
--- @field failures how many failed since it opened
--- @field probe the task that may go meanwhile
--- @field failed_source the source of the last probe that failed
--- @include lib/state

local function source_of(task) return string.match(task, '/([^-]*)') end

-- When the visit takes place, as a number that sorts, by the newest of its changes. It only orders held tasks, so nothing is
-- merged for it. A visit without a time goes first: the change may be a cancellation.
local function visit_start(task)
  local fields, newest, start = call('HGETALL', key.task .. task), -1, ''
  for f = 1, #fields, 2 do
    if string.find(fields[f], '^change:') then
      local change = cjson.decode(string.match(fields[f + 1], '^%d+ (.*)$'))
      local date = change.f.time_completed
      if type(date) ~= 'string' then date = change.f.time_scheduled end
      if type(date) == 'string' and change.o > newest then newest, start = change.o, date end
    end
  end
  return tonumber(string.sub((string.gsub(start, '%D', '')), 1, 14)) or 0
end

-- Held tasks are ordered by the start of their visit, behind all that never failed, and in a second set by their age, so that
-- none is overtaken for ever.
local function hold(task)
  local failed_attempts, pending_since = get_fields(task, 'failed_attempts', 'pending_since')
  set_state(task, 'held', visit_start(task) + (failed_attempts and 1e14 or 0))
  call('ZADD', key.held_by_age .. account_of(task), pending_since or now, task)
end

local ANSWERS_KEPT, ANSWERS_TTL_S = 20, 60
local function note_answer(answers, answer)
  call('LPUSH', answers, answer)
  call('LTRIM', answers, 0, ANSWERS_KEPT - 1)
  call('EXPIRE', answers, ANSWERS_TTL_S)
end

-- Is the API down, or does it fail only for this visit? It is down if most of the newest answers are first failures of
-- different visits, at least `threshold` of them. The trouble is the visit's own if it failed before, or if another visit
-- succeeded during this run or within the last second.
local function is_outage(answers, threshold, task, took_ms)
  if get_fields(task, 'failed_attempts') then return false end
  local failed, succeeded = 1, 0
  for _, answer in ipairs(call('LRANGE', answers, 0, ANSWERS_KEPT - 2)) do
    local at = tonumber(string.match(answer, '^%+(%d+)$'))
    if answer == task or at and at <= now and now - at < math.max(took_ms, 1000) then return false end
    if at then succeeded = succeeded + 1 else failed = failed + 1 end
  end
  note_answer(answers, task)
  return failed >= threshold and succeeded * 4 <= failed
end

-- What one answer of the API means for the whole account. A success closes a circuit that was opened by trouble, but not one
-- that the API opened by naming a time. While the API is down, only the failure of a probe is news; each doubles the wait.
local function update_circuit(account, signal, wait_ms, threshold, task, took_ms)
  local circuit, answers = key.circuit .. account, key.answers .. account
  local kind, probe = unpack(call('HMGET', circuit, 'kind', 'probe'))
  if kind == 'paused' then return end
  if signal == 'ok' then
    note_answer(answers, '+' .. string.format('%.0f', now))
    if kind and kind ~= 'rate_limited' then call('DEL', circuit) end
    return
  end
  if signal == 'down' then
    if kind and probe ~= task or not kind and not is_outage(answers, threshold, task, took_ms) then return end
  end
  call('SADD', key.circuits, account)
  call('HSETNX', circuit, 'since', now)
  if signal == 'down' and kind then call('HSET', circuit, 'failed_source', source_of(task)) end
  local failures = call('HINCRBY', circuit, 'failures', 1)
  if signal == 'down' then wait_ms = math.min(wait_ms, 1000 * 2 ^ (failures - 1)) end
  call('HSET', circuit, 'kind', signal, 'until', now + wait_ms)
  call('HDEL', circuit, 'probe')
end
