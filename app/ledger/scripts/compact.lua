#!lua flags=allow-oom,allow-cross-slot-keys
--- compact: Delete changes that can never win. Requires the lease of the task.
--- @args task token
--- @varargs origins
--- @returns how many changes of this visit were ever deleted; 0 without the lease
--- @include lib/state
--- @include lib/values

if get_fields(task, 'lease') ~= token then return 0 end
local hash, deleted = key.task .. task, 0
for _, origin in ipairs(origins) do
  deleted = deleted + delete_value(hash, 'change:' .. origin) + delete_value(hash, 'discarded:' .. origin)
end
return call('HINCRBY', hash, 'compacted', deleted)
