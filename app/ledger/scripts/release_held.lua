#!lua flags=allow-oom,allow-cross-slot-keys
--- release_held: Queue held tasks of an account: up to `limit` if its circuit is closed; one probe if it is open and a probe
--- is due. A probe whose worker died is replaced after lease_ms. A circuit that nothing can probe any more is closed.
--- calls_per_s: the rate limit of the account, or ''. With a limit, tasks are released only until the next free slot for a call
--- is max_queue_ms away.
--- @args account limit calls_per_s max_queue_ms lease_ms
--- @returns how many tasks were queued
--- @include lib/queue
--- @include lib/circuit
--- @include lib/rate

local circuit, held, held_by_age = key.circuit .. account, key.held .. account, key.held_by_age .. account
local is_paced = calls_per_s ~= ''

-- The best probe of the first 50 held tasks: one without failed attempts, and least often a probe before, since some visits
-- always fail. After a failed probe: of 50 random tasks, preferably one of another source, since all visits of a source may fail.
local PROBE_CANDIDATES = 50
local function next_probe()
  local failed_source = call('HGET', circuit, 'failed_source')
  local candidates = failed_source and call('ZRANDMEMBER', held, PROBE_CANDIDATES)
    or call('ZRANGE', held, 0, PROBE_CANDIDATES - 1)
  local chosen, lowest
  for _, task in ipairs(valid_tasks(held, candidates)) do
    local failed_attempts, probes = get_fields(task, 'failed_attempts', 'probes')
    local rank = (probes or 0) + (failed_attempts and 1e6 or 0) + (source_of(task) == failed_source and 1e3 or 0)
    if not lowest or rank < lowest then chosen, lowest = task, rank end
  end
  if chosen then call('HINCRBY', key.task .. chosen, 'probes', 1) end
  return {chosen}
end

-- The visits that start soonest. With a rate limit, every second task is the one that has waited longest, if it has waited for
-- LONG_WAIT_MS; otherwise visits that start sooner could delay it forever.
local LONG_WAIT_MS = 30000
local function next_tasks(count)
  local released, is_released = {}, {}
  local function add(tasks)
    for _, task in ipairs(tasks) do
      if #released < count and not is_released[task] then
        is_released[task] = true
        released[#released + 1] = task
      end
    end
  end
  local aged = is_paced and math.floor((count + time[2] % 2) / 2) or 0  -- an odd count is rounded up or down at random
  if aged > 0 then
    add(valid_tasks(held_by_age, call('ZRANGEBYSCORE', held_by_age, '-inf', now - LONG_WAIT_MS, 'LIMIT', 0, aged)))
  end
  add(valid_tasks(held, call('ZRANGE', held, 0, count - 1)))
  return released
end

-- How many tasks may be released under the rate limit. Most tasks need one or two calls.
local function free_slots()
  local queue_ms = next_slot(key.rate .. account, 1000 / calls_per_s) - now
  return math.ceil((max_queue_ms - queue_ms) * calls_per_s / 1000 / 2)
end

-- A circuit without a held task stays open for this long after a probe was due. While the API is down, a failed task waits before
-- it is held (RETRY_CAP_S); a task whose token was rejected, or whose call was answered 429, is held at once.
local UNUSED_MS = {down = 3600000, unauthorized = 0, rate_limited = 0}

if call('EXISTS', key.move .. account) == 1 then return 0 end
local kind, open_until = unpack(call('HMGET', circuit, 'kind', 'until'))
local is_open = kind ~= false
if is_open and tonumber(open_until) > now then return 0 end
local count = tonumber(limit)
if is_paced then count = math.min(count, free_slots()) end
if count < 1 then return 0 end
local tasks = is_open and next_probe() or next_tasks(count)
if is_open and #tasks == 0 and now - open_until >= UNUSED_MS[kind] then call('DEL', circuit) end
for i, task in ipairs(tasks) do
  enqueue(task, i / 1000)
  if is_paced then call('HSET', key.task .. task, 'released', 1) end
  if is_open then call('HSET', circuit, 'probe', task, 'until', now + lease_ms) end
end
return #tasks
