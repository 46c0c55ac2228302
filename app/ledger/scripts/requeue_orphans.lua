#!lua flags=allow-oom,allow-cross-slot-keys
--- requeue_orphans: Write a new job for each queued task whose job was lost.
--- @args limit min_age_ms offset
--- @returns {how many jobs were written, the next offset or -1}
--- @include lib/queue

local page = call('ZRANGEBYSCORE', key.queued, '-inf', now - min_age_ms, 'LIMIT', offset, limit)
local requeued = 0
for _, task in ipairs(valid_tasks(key.queued, page)) do
  local jobs, queue = get_fields(task, 'jobs', 'queue')
  if not call('ZSCORE', queue_key(task, queue), job_of(task, jobs)) then
    enqueue(task)
    requeued = requeued + 1
  end
end
return {requeued, #page < tonumber(limit) and -1 or offset + #page - requeued}
