#!lua flags=allow-oom,allow-cross-slot-keys
--- replay: Requeue a visit, by any of its ids, or an event, in any state.
--- recheck: 1 if the run reads the visit from the API first, under each id. recheck_ids: the API's ids of duplicates that the
--- run deletes. queue: '' | replays. activity, operation: of the operator, or ''. affected: visits and deliveries
--- @args task recheck recheck_ids queue activity operation
--- @varargs affected
--- @returns queued | running | gone
--- @include lib/requeue
--- @include lib/aliases
--- @include lib/activities
--- @include lib/operations

if call('EXISTS', key.task .. task) == 0 then return 'gone' end
local aliases = load_aliases(task)
local primary = aliases[1].task
if recheck == '1' then
  for i = 2, #aliases do call('HSET', key.task .. aliases[i].task, 'attempted', 1) end
  call('HSET', key.task .. primary, 'recheck', recheck_ids)
end
index_activity(activity, affected)
track(operation, primary)
return requeue(primary, queue)
