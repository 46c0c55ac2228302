#!lua flags=allow-cross-slot-keys
--- accept: Store a delivery with its changes and jobs, unless it is a repeat.
--- The only script without allow-oom: a full server accepts no deliveries, and tasks continue.
--- event: the state of the event's task: queued, parked (with reason), or '' for an event that needs none. refetch: 1 if a
--- repeat fetches the record again. list_hook: 1 if this process has not listed the hook recently.
--- @args delivery hook list_hook dedup_key dedup_ttl_s keep_ms record event reason refetch
--- @varargs changes: task change previous start
--- @returns 1; the id of the first delivery for a repeat; {limit} if a visit accepts no more changes, or 0 if the account of the hook moves: then nothing was written
--- @include lib/limits
--- @include lib/change

local function store_delivery()
  call('SET', key.delivery .. delivery, record, 'PX', keep_ms)
  call('ZADD', key.deliveries .. hook, now, delivery)
  if list_hook == '1' then call('SADD', key.hooks, hook) end
end

-- The fast path: most deliveries are one new change of a visit with one id. The script returns before it creates the functions
-- below, which takes as long as several commands. The dedup key is the last write: if the script fails before it, the sender's
-- retry is not a repeat.
local first, phase = call('GET', dedup_key), call('GET', key.move_hook .. hook)
if phase and phase ~= 'copying' then return 0 end
if not first and not phase and event == '' and #changes == 1 and changes[1].previous == '' then
  local visit = read_visit(changes[1].task)
  if visit.changes < MAX_FIELDS and not visit.linked and not visit.queue then
    store_delivery()
    add_change(visit, 'change:' .. delivery .. '.0', changes[1].change, changes[1].start)
    call('SET', dedup_key, delivery, 'EX', dedup_ttl_s)
    return 1
  end
end

--- @include lib/changes

-- While an account is copied to another cell, its hooks list what must be copied again.
local function note_for_move(id)
  if phase then call('RPUSH', key.move_arrivals .. hook, id .. ' ' .. dedup_key) end
  return id
end

-- A repeat requeues parked tasks: the event, the visits that it changed, and their aliases.
local function requeue_failed(task)
  for _, alias in ipairs(load_aliases(task)) do
    if alias.state == 'parked' then enqueue_repeat(alias.task) end
  end
  for target in string.gmatch(get_fields(task, 'targets') or '', '%S+') do requeue_failed(target) end
end

local function fetch_again(task)
  local state = get_fields(task, 'state')
  if not state then enqueue_repeat(task) end
  -- The run may have fetched the record before this event. Its end sees the new count and requeues the task.
  if state == 'running' then call('HINCRBY', key.task .. task, 'changes', 1) end
end

local function accept_repeat(first)
  local stored = call('GET', key.delivery .. first)
  local info = stored and cjson.decode(string.match(stored, '^[^\n]*')) or {}
  for _, task in ipairs(info.t or {}) do
    if refetch == '1' then call('HSET', key.task .. task, 'last_event_at', now) end
    requeue_failed(task)
    if refetch == '1' then fetch_again(task) end
  end
  return note_for_move(first)
end

local function add_event()
  local task = 'event:' .. delivery
  local hash = key.task .. task
  call('PERSIST', key.delivery .. delivery)  -- it expires after the event is done
  call('HSET', hash, 'changes', 1, 'last_event_at', now)
  if #changes > 0 then call('HSET', hash, 'targets', task_names(changes)) end
  if event == 'queued' then return enqueue(task) end
  set_state(task, 'parked', now)
  call('HSET', hash, 'reason', reason, 'pending_since', now)
end

if first then return accept_repeat(first) end
local limit = first_exceeded_limit(changes)
if limit then return {limit} end
store_delivery()
if event ~= '' then add_event() end
add_changes(delivery, changes)
note_for_move(delivery)
call('SET', dedup_key, delivery, 'EX', dedup_ttl_s)
return 1
