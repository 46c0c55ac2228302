--- Jobs in the queues of arq. A job contains the id of its task and no data.
--- @include lib/tasks

local JOB_TTL_MS = 30 * 86400 * 1000

-- Write a job. Returns the fields that the caller writes to the hash of the task.
-- number: counts the jobs of the task, so that ids are unique: arq deletes a finished job by its id, possibly after the next
-- job of the same task was written. queue: visits | events | replays, by default the queue of the kind; each has its own slots
-- in a worker, so that slow tools and large replays do not delay other tasks. delay_ms: orders jobs of the same ms.
local function write_job(task, state, number, queue, delay_ms)
  -- A parked task starts with a new retry period.
  if state == 'parked' then call('HDEL', key.task .. task, 'failed_attempts', 'failed_since') end
  local job = task .. '#' .. number
  local kind, subject = string.match(task, '^(%a+):(.*)$')
  local payload = '{"t":null,"f":"' .. kind .. '","a":["' .. subject .. '"],"k":{},"et":' .. string.format('%.0f', now) .. '}'
  call('SET', key.job .. job, payload, 'PX', JOB_TTL_MS)
  call('ZADD', key.queue .. (queue or kind .. 's'), now + (delay_ms or 0), job)
  remove_from_state(task, state)
  call('ZADD', key.queued, now, task)
  return 'state', 'queued', 'job', job, 'jobs', number
end
