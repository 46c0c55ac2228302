#!lua flags=allow-oom,allow-cross-slot-keys
--- replay: Requeue a visit, by any of its ids, or an event, whatever its outcome was.
--- recheck: 1 if the API is asked for the visit first, under each id, and about the visits with its own ids recheck_ids.
--- queue: '' | replays
--- @args task recheck recheck_ids queue
--- @returns queued | running | gone
--- @include lib/requeue
--- @include lib/aliases

if call('EXISTS', key.task .. task) == 0 then return 'gone' end
local aliases = load_aliases(task)
local primary = aliases[1].task
if recheck == '1' then
  for i = 2, #aliases do call('HSET', key.task .. aliases[i].task, 'attempted', 1) end
  call('HSET', key.task .. primary, 'recheck', recheck_ids)
end
return requeue(primary, queue)
