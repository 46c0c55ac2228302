--- Changes of several visits, which may have aliases.
--- @include lib/change
--- @include lib/values
--- @include lib/queue
--- @include lib/aliases

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

-- Move a task that a replay queued to the queue of live changes, since a new change arrived.
local function promote_to_live(task, jobs)
  local job = job_of(task, jobs)
  call('HDEL', key.task .. task, 'queue')
  if call('ZREM', key.queue .. 'replays', job) == 1 then call('ZADD', queue_key(task), now, job) end
end

-- keep_discarded: changes that an operator discarded stay discarded, for a delivery that is translated again.
local function add_changes(delivery, changes, keep_discarded)
  for i, change in ipairs(changes) do
    local task, origin, visit = change.task, delivery .. '.' .. i - 1, read_visit(change.task)
    if visit.queue then promote_to_live(task, visit.jobs) end
    local is_discarded = keep_discarded and call('HEXISTS', key.task .. task, 'discarded:' .. origin) == 1
    local field = (is_discarded and 'discarded:' or 'change:') .. origin
    if visit.changes > 0 then delete_value(key.task .. task, field) end
    local was_idle = add_change(visit, field, change.change, change.start)
    if change.previous ~= '' then link_ids(task, change.previous) end
    if change.previous ~= '' or visit.linked and was_idle then persist_aliases(task) end
  end
end

local function task_names(changes)
  local names = {}
  for i, change in ipairs(changes) do names[i] = change.task end
  return table.concat(names, ' ')
end
