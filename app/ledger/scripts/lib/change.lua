--- A change of a visit: the field `change:<origin>` of its hash, or `discarded:<origin>` after an operator discarded it.
--- The origin is `<delivery>.<index>`. The value is `<number> <change>`; numbers follow the order of arrival.
--- @include lib/jobs
--- @include lib/visit_days

-- Read the fields that add_change needs. Every stored visit has `changes`; to ask for one field of a new visit is fast.
local function read_visit(task)
  local changes = call('HGET', key.task .. task, 'changes')
  if not changes then return {task = task, changes = 0, jobs = 0} end
  local jobs, queue, state, pending_since, failed_since, linked =
    get_fields(task, 'jobs', 'queue', 'state', 'pending_since', 'failed_since', 'linked')
  return {task = task, changes = tonumber(changes), jobs = tonumber(jobs or 0), queue = queue, state = state,
    pending_since = pending_since, failed_since = failed_since, linked = linked}
end

-- Record a change and queue its visit, unless a scheduled run will see it. -> true if the visit was queued
-- start: when the visit starts according to this change, or ''. A new visit is listed there until its first run.
local function add_change(visit, field, change, start)
  local hash, number = key.task .. visit.task, visit.changes + 1
  local value = number .. ' ' .. change
  if is_scheduled(visit.state, visit.failed_since) then
    call('HSET', hash, 'changes', number, field, value)
    return false
  end
  local since, jobs = visit.pending_since or now, visit.jobs + 1
  if number > 1 then call('PERSIST', hash) end
  if number == 1 and start ~= '' then
    add_to_day(visit.task, start)
    call('HSET', hash, 'start', start, 'changes', number, field, value, 'pending_since', since,
      write_job(visit.task, visit.state, jobs, 'visits'))
  else
    call('HSET', hash, 'changes', number, field, value, 'pending_since', since,
      write_job(visit.task, visit.state, jobs, 'visits'))
  end
  return true
end
