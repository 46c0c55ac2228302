#!lua flags=allow-oom,allow-cross-slot-keys
--- release_circuit: Queue held tasks of an account: one probe if its circuit is open and its time has come, many if it is
--- closed. A probe whose worker dies is replaced after lease_ms.
--- calls_per_s: the rate at which the account may drain, or ''; then no more go than make the queue for calls max_queue_ms long.
--- @args account limit calls_per_s max_queue_ms lease_ms
--- @returns how many
--- @include lib/queue
--- @include lib/circuit
--- @include lib/rate

local circuit, held, held_by_age = key.circuit .. account, key.held .. account, key.held_by_age .. account
local is_paced = calls_per_s ~= ''

-- Of the first 50 the one that never failed and was the probe least often: a visit that always fails must not be every
-- probe. After a failed probe, 50 at random, preferably of another source: the visits of one source may all fail, and new ones
-- of them may always come first.
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

-- The visits that start soonest. Where calls are paced, every second task is the one that has waited longest, if it has waited
-- for LONG_WAIT_MS: visits that start sooner may always come.
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
  local aged = is_paced and math.floor((count + time[2] % 2) / 2) or 0  -- of an odd number, chance decides over one
  if aged > 0 then
    add(valid_tasks(held_by_age, call('ZRANGEBYSCORE', held_by_age, '-inf', now - LONG_WAIT_MS, 'LIMIT', 0, aged)))
  end
  add(valid_tasks(held, call('ZRANGE', held, 0, count - 1)))
  return released
end

-- How many tasks fit into the queue for calls. Most tasks need one or two calls.
local function free_slots()
  local queue_ms = next_slot(key.rate .. account, 1000 / calls_per_s) - now
  return math.ceil((max_queue_ms - queue_ms) * calls_per_s / 1000 / 2)
end

local is_open, open_until = call('EXISTS', circuit) == 1, call('HGET', circuit, 'until')
if is_open and tonumber(open_until) > now then return 0 end
if is_open and call('HGET', circuit, 'kind') == 'rate_limited' then
  call('DEL', circuit)
  is_open = false
end
local count = tonumber(limit)
if is_paced then count = math.min(count, free_slots()) end
if count < 1 then return 0 end
local tasks = is_open and next_probe() or next_tasks(count)
for i, task in ipairs(tasks) do
  enqueue(task, i / 1000)
  if is_paced then call('HSET', key.task .. task, 'released', 1) end
  if is_open then call('HSET', circuit, 'probe', task, 'until', now + lease_ms) end
end
return #tasks
