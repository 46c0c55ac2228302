#!lua flags=allow-oom,allow-cross-slot-keys
--- renew_lease: Set the end of a lease to lease_ms from now, after the clock of the server jumped.
--- @args lease_ms token
--- @varargs tasks
--- @include lib/state

for _, task in ipairs(tasks) do
  local state, lease = get_fields(task, 'state', 'lease')
  if state == 'running' and lease == token then call('ZADD', key.running, now + lease_ms, task) end
end
