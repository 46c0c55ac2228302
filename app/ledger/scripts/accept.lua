#!lua flags=allow-cross-slot-keys
--- accept: Store a delivery with its changes and jobs, unless it is a repeat.
--- The only script without allow-oom: a full server accepts no deliveries, and tasks continue.
--- options: '', or JSON of those that apply: event, the state of the event's task: queued, or parked with reason; refetch, if a
--- repeat may be another event and fetches the record again; register_hook, if this process has not registered the hook recently;
--- dedup_ttl_s, if a repeat is recognized for longer than eight days.
--- @args delivery hook keep_ms record options
--- @varargs changes: task change previous start
--- @returns 1; the id of the first delivery for a repeat; {limit} if a visit accepts no more changes, 0 if the account of the hook moves, or 2 if the event was stored too long ago to count as a repeat, or its body, which the record is fetched with, was erased: then nothing was written, and for 2 the caller sends the delivery again with another digest
--- @include lib/clock
--- @include lib/cut

local digest = string.sub(delivery, 13)  -- of the event
local record_key = key.delivery .. string.sub(delivery, 1, 1) .. digest
local stored, phase = call('GET', record_key), call('GET', key.move_hook .. hook)
if phase and phase ~= 'copying' then return 0 end

-- The fastest path: one change of a new visit. To create the functions below would take Redis as long as several commands, for
-- each call; this path needs one, and writes what `store_delivery` and `add_visit` write, or for an account whose circuit is open,
-- what `hold` in circuit.lua writes. The record is the last write of every path: if the script fails before it, the sender's retry
-- is not a repeat.
--- @bind_only changes
local is_simple = is_only and previous == '' and options == '' and not stored and not phase
local hash = is_simple and key.task .. task
if is_simple and call('EXISTS', hash) == 0 then
  call('ZADD', key.deliveries .. hook, now, delivery)
  local account, state = string.match(task, '^visit:([^/]*)'), 'queued'
  local circuit = call('HGET', key.circuit .. account, 'kind')
  if circuit and call('EXISTS', key.move .. account) == 0 then
    --- @include lib/circuit_reasons
    --- @include lib/change_time
    local time = time_in(cjson.decode(change))
    state = 'held'
    call('SADD', key.accounts, account)
    call('ZADD', key.held .. account, time and time_rank(time) or 0, task)
    call('ZADD', key.held_by_age .. account, now, task)
    call('HSET', hash, 'reason', CIRCUIT_REASONS[circuit])
  else
    call('ZADD', key.visits_queue, now, task .. '#1')
    call('ZADD', key.queued, now, task)
  end
  local field = 'change:' .. delivery .. '.0'
  if start == '' then
    call('HSET', hash, 'state', state, 'pending_since', now, 'changes', 1, cut(field, '1 ' .. change))
  else
    call('HSET', hash, 'state', state, 'pending_since', now, 'start', start, 'changes', 1, cut(field, '1 ' .. change))
    local day = string.sub(start, 1, 10)
    if call('RPUSH', key.visit_day .. day, string.sub(start, 12) .. ' ' .. string.sub(task, 7)) == 1 then
      call('ZADD', key.visit_days, (string.gsub(day, '-', '')), day)
    end
  end
  call('SET', record_key, record, 'PX', keep_ms)
  return 1
end

--- @include lib/limits
--- @include lib/change
--- @bind changes

options = options == '' and {} or cjson.decode(options)

local function store_delivery()
  call('ZADD', key.deliveries .. hook, now, delivery)
  if options.register_hook then call('SADD', key.hooks, hook) end
end

-- A fast path: one change of a known visit with one id needs only the functions above.
if is_simple then
  local visit = read_visit(task)
  if visit.changes > 0 and visit.changes < MAX_FIELDS and not visit.linked and not visit.queue then
    store_delivery()
    add_change(visit, 'change:' .. delivery .. '.0', change)
    call('SET', record_key, record, 'PX', keep_ms)
    return 1
  end
end

--- @include lib/changes

local REPEAT_MS = 8 * 86400000  -- DEDUP_TTL_S in records.py; RETENTION_DAYS is greater
local info = stored and cjson.decode(string.match(stored, '^[^\n]*')) or {}
local mark = options.dedup_ttl_s and key.dedup .. hook .. ':' .. digest

-- -> the id of the delivery that stored this event first
local function first_delivery()
  if stored then return string.sub(delivery, 1, 1) .. string.format('%011x', info.a) .. digest end
  return mark and call('GET', mark)
end

-- While an account is copied to another cell, its hooks list what must be copied again.
local function note_for_move(id)
  if phase then call('RPUSH', key.move_arrivals .. hook, mark and id .. ' ' .. mark or id) end
  return id
end

-- A repeat requeues parked tasks: the event, the visits that it changed, and their aliases.
local function requeue_failed(task)
  for _, alias in ipairs(load_aliases(task)) do
    if alias.state == 'parked' then enqueue_again(alias.task) end
  end
  for target in string.gmatch(get_fields(task, 'targets') or '', '%S+') do requeue_failed(target) end
end

-- The new count is seen by the end of a run, which may have fetched the record before this event and then requeues the task, and
-- by the discard that an operator decided on before this event.
local function fetch_again(task)
  local state = get_fields(task, 'state')
  call('HINCRBY', key.task .. task, 'changes', 1)
  if not state or state == 'discarded' then enqueue_again(task) end
end

local function accept_repeat(first)
  for _, task in ipairs(info.t or {}) do
    if options.refetch then call('HSET', key.task .. task, 'last_event_at', now) end
    requeue_failed(task)
    if options.refetch then fetch_again(task) end
  end
  return note_for_move(first)
end

local function add_event()
  local task = 'event:' .. delivery
  local hash = key.task .. task
  call('HSET', hash, 'changes', 1, 'last_event_at', now, 'pending_since', now)
  if #changes > 0 then call('HSET', hash, 'targets', task_names(changes)) end
  if options.event == 'queued' then
    write_job(task, nil, 1)
    call('HSET', hash, 'state', 'queued')
  else
    set_state(task, 'parked', now)
    call('HSET', hash, 'reason', options.reason)
  end
end

local first = first_delivery()
local is_old = not mark and stored and info.a < now - REPEAT_MS
local is_erased = options.refetch and info.x
if first and (is_old or is_erased) then return 2 end
if first then return accept_repeat(first) end
local limit = first_exceeded_limit(changes)
if limit then return {limit} end
store_delivery()
if options.event then add_event() end
add_changes(delivery, changes)
note_for_move(delivery)
if mark then call('SET', mark, delivery, 'EX', options.dedup_ttl_s) end
call('SET', record_key, record)
if not options.event then call('PEXPIRE', record_key, keep_ms) end  -- else it expires after the event is done
return 1
