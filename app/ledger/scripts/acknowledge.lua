#!lua flags=allow-oom,allow-cross-slot-keys
--- acknowledge: Delete a job after its run, whatever the outcome. The state of the task decides what follows.
--- If the task still waits for this job, a failover lost the run: the job becomes due again.
--- @args job queue
--- @include lib/tasks

local AGAIN_AFTER_MS = 1000
local jobs = key.queue .. queue
local state, newest = get_fields(string.match(job, '^(.*)#') or job, 'state', 'job')

if state == 'queued' and newest == job then
  call('ZADD', jobs, 'XX', now + AGAIN_AFTER_MS, job)
else
  call('ZREM', jobs, job)
end
