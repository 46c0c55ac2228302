#!lua flags=allow-oom,allow-cross-slot-keys
--- restore_lease: Restore a lease on a restarted server, which may have lost its newest writes.
--- tasks: those of one visit, the primary first. Tasks that another run has leased since are not changed. An event whose delivery
--- was lost is lost, too.
--- @args lease_ms token
--- @varargs tasks
--- @include lib/state

local function is_lost_event(task)
  local delivery = delivery_of(task)
  return delivery and not is_stored(delivery)
end

for i, task in ipairs(tasks) do
  local hash = key.task .. task
  local state, lease = get_fields(task, 'state', 'lease')
  if lease == token and state == 'running' then
    call('ZADD', key.running, 'XX', now + lease_ms, task)
  elseif lease ~= token and not is_leased(task, state) and not is_lost_event(task) then
    set_state(task, 'running', now + lease_ms)
    call('HSET', hash, 'lease', token)
    if i == 1 then note_attempt(task) end
    call('PERSIST', hash)
  end
end
