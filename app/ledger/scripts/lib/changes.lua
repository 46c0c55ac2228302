--- Changes of several visits, which may have aliases.
--- @include lib/change
--- @include lib/values
--- @include lib/visit_days
--- @include lib/queue
--- @include lib/links

-- The limit of the visit that the change exceeds, or nil.
local function exceeded_limit(change)
  local linked, count = get_fields(change.task, 'linked', 'changes')
  if not linked and change.previous == '' and tonumber(count or 0) < MAX_FIELDS then return end
  local tasks = change.previous ~= '' and {change.task, change.previous} or {change.task}
  local _, id_count, field_count = walk(tasks, load_links, MAX_ALIASES, MAX_FIELDS)
  if field_count >= MAX_FIELDS then return 'too_many_changes' end
  local is_new_link = change.previous ~= '' and call('HEXISTS', key.task .. change.task, 'previous:' .. change.previous) == 0
  if is_new_link and id_count > MAX_ALIASES then return 'too_many_reschedules' end
end

-- Scripts call this before their first write: they write all changes or none.
local function first_exceeded_limit(changes)
  for _, change in ipairs(changes) do
    local limit = exceeded_limit(change)
    if limit then return limit end
  end
end

-- start: when the visit starts according to its first change, or ''. It is listed there until its first run.
local function list_start(task, start)
  if start == '' then return end
  call('HSET', key.task .. task, 'start', start)
  add_to_day(task, start)
end

local function add_visit(task, field, change, start)
  write_job(task, nil, 1, 'visits')
  call('HSET', key.task .. task, 'state', 'queued', 'pending_since', now, 'changes', 1, cut(field, '1 ' .. change))
  list_start(task, start)
end

-- Move a visit that a replay queued to the queue of live changes, since a new change arrived.
local function promote_to_live(task, jobs, queue)
  if not queue then return end
  local job = job_of(task, jobs)
  call('HDEL', key.task .. task, 'queue')
  if call('ZREM', key.queue .. 'replays', job) == 1 then call('ZADD', queue_key(task), now, job) end
end

-- Record a change of a visit with several ids, and queue the visit under its primary id, unless a scheduled run will see it.
local function add_linked_change(visit, field, change)
  local hash, number = key.task .. visit.task, visit.changes + 1
  call('HSET', hash, 'changes', number, change_fields(field, number, change.change))
  if number == 1 then list_start(visit.task, change.start) end
  if change.previous ~= '' then link_ids(visit.task, change.previous) end
  local aliases = walk_links(visit.task)
  for name in pairs(aliases) do promote_to_live(name, get_fields(name, 'jobs', 'queue')) end
  enqueue_if_idle(aliases)
end

-- keep_discarded: changes that an operator discarded stay discarded, for a delivery that is translated again.
local function add_changes(delivery, changes, keep_discarded)
  for i, change in ipairs(changes) do
    local task, origin, visit = change.task, delivery .. '.' .. i - 1, read_visit(change.task)
    local is_discarded = keep_discarded and call('HEXISTS', key.task .. task, 'discarded:' .. origin) == 1
    local field = (is_discarded and 'discarded:' or 'change:') .. origin
    if visit.changes > 0 then delete_value(key.task .. task, field) end
    if visit.linked or change.previous ~= '' then
      add_linked_change(visit, field, change)
    elseif visit.changes == 0 then
      add_visit(task, field, change.change, change.start)
    else
      promote_to_live(task, visit.jobs, visit.queue)
      add_change(visit, field, change.change)
    end
  end
end

local function task_names(changes)
  local names = {}
  for i, change in ipairs(changes) do names[i] = change.task end
  return table.concat(names, ' ')
end
