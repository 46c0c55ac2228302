--- Jobs. A job is a member of a queue: the id of its task and a number. It has no other data.
--- @include lib/tasks

local function queue_key(task, queue) return key.queue .. (queue or kind_of(task) .. 's') end

-- The newest job of a task. jobs: the field of its hash.
local function job_of(task, jobs) return task .. '#' .. (jobs or 1) end

-- Write a job. The caller writes `state` and `jobs` to the hash of the task.
-- number: counts the jobs of the task, so that ids are unique: a worker deletes a finished job by its id, possibly after the next
-- job of the same task was written. queue: visits | events | replays, by default the queue of the kind; each has its own slots
-- in a worker, so that slow tools and large replays do not delay other tasks. delay_ms: orders jobs of the same ms.
local function write_job(task, state, number, queue, delay_ms)
  -- A parked task starts with a new retry period.
  if state == 'parked' then call('HDEL', key.task .. task, 'failed_attempts', 'failed_since') end
  call('ZADD', queue_key(task, queue), now + (delay_ms or 0), job_of(task, number))
  remove_from_state(task, state)
  call('ZADD', key.queued, now, task)
end
