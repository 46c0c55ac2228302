#!lua flags=allow-oom,allow-cross-slot-keys
--- requeue_due: Queue waiting tasks that are due, and running tasks whose lease has expired.
--- @args expected_ms limit keep_ms lease_ms
--- @returns how many tasks were due or had an expired lease
--- @include lib/clock_check
--- @include lib/queue
--- @include lib/parking

-- One expired lease means that a worker died. Several may mean that the task crashes workers. Such tasks run at different times,
-- the last time almost alone, before they are parked: a task that merely ran at the same time must not be parked too.
local MAX_EXPIRED_LEASES, APART_MS, ALONE_MS, ALONE_TTL_MS = 5, 250, 10000, 3600000

local function delay_until_alone()
  local slot = tonumber(call('GET', key.alone) or 0)
  if slot < now or slot > now + ALONE_TTL_MS then slot = now end
  call('SET', key.alone, string.format('%.0f', slot + ALONE_MS), 'PX', ALONE_TTL_MS)
  return slot + ALONE_MS - now
end

-- -> the tasks that were parked, by name
local function park_crashing(task, expired_leases)
  local aliases, parked = load_aliases(task), {}
  for _, alias in ipairs(aliases) do
    if alias.state == 'running' then
      parked[alias.task] = true
      clear_state(alias.task)
    end
  end
  park_without_run(aliases[1].task, aliases, 'crashed_repeatedly',
    string.format('its lease expired %d times in a row', expired_leases))
  return parked
end

local function requeue_expired(tasks)
  local parked = {}
  for i, task in ipairs(tasks) do
    local expired_leases = parked[task] and 0 or call('HINCRBY', key.task .. task, 'expired_leases', 1)
    if expired_leases >= MAX_EXPIRED_LEASES then
      for name in pairs(park_crashing(task, expired_leases)) do parked[name] = true end
    elseif expired_leases == MAX_EXPIRED_LEASES - 1 then
      enqueue(task, delay_until_alone())
    elseif expired_leases > 0 then
      enqueue(task, expired_leases > 1 and i * APART_MS or 0)
    end
  end
end

-- How far the clock went back since the newest heartbeat of a worker.
local function clock_setback_ms()
  local heartbeat = call('ZREVRANGE', key.workers, 0, 0, 'WITHSCORES')[2]
  local setback_ms = (tonumber(heartbeat) or 0) - now
  return setback_ms > MAX_CLOCK_STEP_MS and setback_ms or 0
end

local function move_back(setback_ms)
  for _, worker in ipairs(call('ZRANGEBYSCORE', key.workers, now, '+inf')) do call('ZADD', key.workers, now, worker) end
  for _, task in ipairs(call('ZRANGE', key.waiting, 0, -1)) do
    call('ZINCRBY', key.waiting, -setback_ms, task)
    call('HINCRBY', key.task .. task, 'retry_at', -setback_ms)
  end
  for _, account in ipairs(call('SMEMBERS', key.circuits)) do
    local circuit = key.circuit .. account
    if call('HEXISTS', circuit, 'until') == 1 and call('HGET', circuit, 'kind') ~= 'paused' then
      call('HINCRBY', circuit, 'until', -setback_ms)
    end
    if call('HEXISTS', circuit, 'limited_until') == 1 then call('HINCRBY', circuit, 'limited_until', -setback_ms) end
    call('DEL', key.rate .. account)
  end
end

-- Correct stored times after the clock went back: they are too far in the future. Holders have renewed the leases in use; the
-- others now end after lease_ms.
local function follow_clock()
  local setback_ms = clock_setback_ms()
  if setback_ms > 0 then move_back(setback_ms) end
  for _, task in ipairs(call('ZRANGEBYSCORE', key.queued, now + MAX_CLOCK_STEP_MS, '+inf', 'LIMIT', 0, limit)) do
    local jobs, queue = get_fields(task, 'jobs', 'queue')
    call('ZADD', key.queued, now, task)
    call('ZADD', queue_key(task, queue), 'XX', now, job_of(task, jobs))
  end
  local latest = now + lease_ms + MAX_CLOCK_STEP_MS
  for _, task in ipairs(call('ZRANGEBYSCORE', key.running, latest, '+inf', 'LIMIT', 0, limit)) do
    call('ZADD', key.running, now + lease_ms, task)
  end
end

local jumped = clock_error(expected_ms)
if jumped then return jumped end
follow_clock()
local due = valid_tasks(key.waiting, call('ZRANGEBYSCORE', key.waiting, '-inf', now, 'LIMIT', 0, limit))
local expired = valid_tasks(key.running, call('ZRANGEBYSCORE', key.running, '-inf', now, 'LIMIT', 0, limit))
call('ZREMRANGEBYSCORE', key.discarded, '-inf', now - keep_ms)
for _, task in ipairs(due) do enqueue(task) end
requeue_expired(expired)
return #due + #expired
