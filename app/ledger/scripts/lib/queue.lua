--- Queues tasks.
--- @include lib/jobs
--- @include lib/transitions
--- @include lib/links

-- An unfinished task does not expire; nor do the other ids of a visit, or the delivery of an event.
local function keep(task, aliases)
  persist(aliases)
  local delivery = delivery_of(task)
  if delivery then call('PERSIST', delivery_key(delivery)) end
end

-- aliases: of the visit, if they are known.
local function enqueue(task, delay_ms, aliases)
  local hash = key.task .. task
  local state, jobs, queue = get_fields(task, 'state', 'jobs', 'queue')
  local number = (jobs or 1) + 1
  write_job(task, state, number, queue, delay_ms)
  call('HSET', hash, 'state', 'queued', 'jobs', number)
  call('HSETNX', hash, 'pending_since', now)
  keep(task, aliases or walk_links(task))
end

-- Queue a visit, unless a scheduled run of any of its ids will see the changes.
local function enqueue_if_idle(aliases)
  for name in pairs(aliases) do
    if is_scheduled(get_fields(name, 'state', 'failed_since')) then return persist(aliases) end
  end
  enqueue(primary_of(aliases), 0, aliases)
end

-- Queue a task again because of a repeat, also of one that arrived during its run: the first time at once, then at most once a
-- minute, however often the tool repeats the event. A time in the future means that the clock went back.
local REPEAT_INTERVAL_MS = 60000
local function enqueue_again(task)
  local hash = key.task .. task
  local repeated_at = tonumber(get_fields(task, 'repeated_at')) or 0
  local due = math.min(repeated_at, now) + REPEAT_INTERVAL_MS
  call('HSET', hash, 'repeated_at', math.max(due, now))
  if due <= now then return enqueue(task) end
  call('HDEL', hash, 'failed_attempts', 'failed_since')
  wait(task, due, 'repeated_within_a_minute')
  call('HSETNX', hash, 'pending_since', now)
  keep(task, walk_links(task))
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
