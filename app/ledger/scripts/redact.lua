#!lua flags=allow-oom,allow-cross-slot-keys
--- redact: Overwrite the personal data of a task.
--- change_count: as it was read, '' if there was no task. record: of an event, its delivery as it is to be stored, else ''.
--- @args task change_count record
--- @rest replacements: field value
--- @returns ok; busy while it is leased; moved if changes arrived since
--- @include lib/state

local hash = key.task .. task
local state, changes = get_fields(task, 'state', 'changes')
if is_leased(task, state) then return 'busy' end
if (changes or '') ~= change_count then return 'moved' end
if record ~= '' then call('SET', key.delivery .. delivery_of(task), record, 'XX', 'KEEPTTL') end
for _, each in ipairs(replacements) do
  if call('HEXISTS', hash, each.field) == 1 then call('HSET', hash, each.field, each.value) end
end
if changes then call('HSET', hash, 'erased_at', now) end
return 'ok'
