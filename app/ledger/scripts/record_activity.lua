#!lua flags=allow-oom,allow-cross-slot-keys
--- record_activity: Append to the activity log of operators.
--- operation: the operation that it starts or cancels, or ''. affected: the visits and deliveries that it affects; the entry has
--- the first 20.
--- @args actor role action target operation
--- @varargs affected
--- @returns the id of the activity
--- @include lib/activities

local MAX_ENTRIES, MAX_LINKS = 10000, 20
local entry = {'actor', actor, 'role', role, 'action', action, 'target', target}
local function add_field(name, value)
  entry[#entry + 1] = name
  entry[#entry + 1] = value
end
if operation ~= '' then add_field('operation', operation) end
if #affected > 0 then add_field('affected', table.concat(affected, ' ', 1, math.min(#affected, MAX_LINKS))) end
local activity = call('XADD', key.activity, 'MAXLEN', '~', MAX_ENTRIES, '*', unpack(entry))
index_activity(activity, affected)
return activity
