#!lua flags=allow-oom,allow-cross-slot-keys
--- retranslate: Queue the translation of a delivery. The new changes replace its earlier ones.
--- head: the first line of its record, as it was read. new_head, targets: for a delivery that was translated on arrival, the head
--- with the event as its task, and the visits that it changed; else ''. queue: '' | replays. activity, operation: of the operator, or ''.
--- affected: visits and deliveries
--- @args delivery head new_head targets queue activity operation
--- @varargs affected
--- @returns queued | running | gone; moved if the head differs: the body may have been erased
--- @include lib/requeue
--- @include lib/activities
--- @include lib/operations

local task, record_key = 'event:' .. delivery, delivery_key(delivery)
local hash, record = key.task .. task, call('GET', record_key)
if not record then return 'gone' end
if string.sub(record, 1, #head + 1) ~= head .. '\n' then return 'moved' end
if call('HSETNX', hash, 'changes', 1) == 1 and new_head ~= '' then
  call('SET', record_key, new_head .. string.sub(record, #head + 1))
  call('HSET', hash, 'targets', targets)
end
call('HSET', hash, 'replaces_changes', 1)
index_activity(activity, affected)
track(operation, task)
return requeue(task, queue)
