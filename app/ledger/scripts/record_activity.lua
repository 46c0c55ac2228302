#!lua flags=allow-oom,allow-cross-slot-keys
--- record_activity: Append to the activity log of operators.
--- operation: the operation that it starts or cancels, or ''. affected: the visits and deliveries that it affects.
--- @args actor role action target operation
--- @varargs affected
--- @returns the id of the activity
--- @include lib/activities

local MAX_ENTRIES = 10000
local entry = {'actor', actor, 'role', role, 'action', action, 'target', target}
if operation ~= '' then
  entry[#entry + 1] = 'operation'
  entry[#entry + 1] = operation
end
local activity = call('XADD', key.activity, 'MAXLEN', '~', MAX_ENTRIES, '*', unpack(entry))
index_activity(activity, affected)
return activity
