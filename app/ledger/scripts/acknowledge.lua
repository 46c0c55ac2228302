#!lua flags=allow-oom,allow-cross-slot-keys
--- acknowledge: Delete a job after its run, whatever the outcome. The state of the task decides what follows.
--- If the task still waits for this job, a failover lost the run: the job becomes due again.
--- @args job queue
--- @include lib/jobs

local AGAIN_AFTER_MS = 1000
local task = string.match(job, '^(.*)#') or job
local state, number = get_fields(task, 'state', 'jobs')

if state == 'queued' and job == job_of(task, number) then
  call('ZADD', key.queue .. queue, 'XX', now + AGAIN_AFTER_MS, job)
else
  call('ZREM', key.queue .. queue, job)
end
