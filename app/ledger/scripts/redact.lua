#!lua flags=allow-oom,allow-cross-slot-keys
--- redact: Replace fields of a task that contain personal data.
--- change_count: the count that was read; '' if there was no task. record: for an event, its new delivery, else ''.
--- @args task change_count record
--- @varargs replacements: field value
--- @returns ok; busy while the task is leased or its account moves; moved if change_count differs
--- @include lib/state
--- @include lib/values
--- @include lib/moves

local hash = key.task .. task
local state, changes = get_fields(task, 'state', 'changes')
if is_leased(task, state) or is_moving(task) then return 'busy' end
if (changes or '') ~= change_count then return 'moved' end
if record ~= '' then call('SET', delivery_key(delivery_of(task)), record, 'XX', 'KEEPTTL') end
for _, item in ipairs(replacements) do
  if call('HEXISTS', hash, item.field) == 1 then replace_value(hash, item.field, item.value) end
end
if changes then call('HSET', hash, 'erased_at', now) end
return 'ok'
