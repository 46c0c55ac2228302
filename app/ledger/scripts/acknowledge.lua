#!lua flags=allow-oom,allow-cross-slot-keys
--- acknowledge: Delete a job after its run, whatever the outcome. The state of the task decides what follows.
--- @args job queue

redis.call('ZREM', key.queue .. queue, job)
