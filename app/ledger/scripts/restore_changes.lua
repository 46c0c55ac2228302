#!lua flags=allow-oom,allow-cross-slot-keys
--- restore_changes: Write back the changes and links of a visit that a run has read, if the server has lost them.
--- changes: how many the run has read. The server has lost none of them if it has the lease of the run, or as many.
--- @args task token changes
--- @varargs fields: name value
--- @include lib/tasks

local hash = key.task .. task
local count, lease = get_fields(task, 'changes', 'lease')
if lease == token or tonumber(count or 0) >= tonumber(changes) then return end
local restored = 0
for _, field in ipairs(fields) do
  local is_new = call('HSETNX', hash, field.name, field.value) == 1
  if is_new and string.find(field.name, '^change:.*%.%d+$') then restored = restored + 1 end
end
call('HINCRBY', hash, 'changes', restored)
