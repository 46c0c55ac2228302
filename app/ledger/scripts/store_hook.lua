#!lua flags=allow-oom,allow-cross-slot-keys
--- store_hook: Add, replace or remove a stored hook, if it is still as it was read.
--- expected: the value that was read, '' for none. value: the new one, '' to remove it. version: a new random value.
--- @args name expected value version limit
--- @returns `stored`, `changed` if another process was first, or `full` if there are `limit` hooks

local call = redis.call
if (call('HGET', key.stored_hooks, name) or '') ~= expected then return 'changed' end
if value == '' then
  call('HDEL', key.stored_hooks, name)
else
  if expected == '' and call('HLEN', key.stored_hooks) >= tonumber(limit) then return 'full' end
  call('HSET', key.stored_hooks, name, value)
end
call('SET', key.stored_hooks_version, version)
return 'stored'
