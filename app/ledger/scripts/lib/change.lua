--- A change of a visit: the field `change:<origin>` of its hash, or `discarded:<origin>` after an operator discarded it.
--- The origin is `<delivery>.<index>`. The value is `<number> <change>`; numbers follow the order of arrival.
--- @include lib/jobs
--- @include lib/cut

-- Read the fields that add_change needs. Every stored visit has `changes`; to ask for one field of a new visit is fast.
local function read_visit(task)
  local changes = call('HGET', key.task .. task, 'changes')
  if not changes then return {task = task, changes = 0} end
  local jobs, queue, state, pending_since, failed_since, linked =
    get_fields(task, 'jobs', 'queue', 'state', 'pending_since', 'failed_since', 'linked')
  return {task = task, changes = tonumber(changes), jobs = jobs, queue = queue, state = state,
    pending_since = pending_since, failed_since = failed_since, linked = linked}
end

-- A visit with more changes has too many fields for Redis' compact form, however short their values are.
local MAX_CUT_CHANGES = 100

local function change_fields(field, number, change)
  local value = number .. ' ' .. change
  if number > MAX_CUT_CHANGES then return field, value end
  return cut(field, value)
end

-- Record a change of a known visit with one id, and queue it unless a scheduled run will see it.
local function add_change(visit, field, change)
  local hash, number, jobs = key.task .. visit.task, visit.changes + 1, (visit.jobs or 1) + 1
  if is_scheduled(visit.state, visit.failed_since) then
    call('HSET', hash, 'changes', number, change_fields(field, number, change))
    return
  end
  write_job(visit.task, visit.state, jobs, 'visits')
  call('PERSIST', hash)
  call('HSET', hash, 'state', 'queued', 'jobs', jobs, 'pending_since', visit.pending_since or now, 'changes', number,
    change_fields(field, number, change))
end
