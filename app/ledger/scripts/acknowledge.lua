#!lua flags=allow-oom,allow-cross-slot-keys
--- acknowledge: Delete a job that has run, whatever its outcome: the state of its task says what is still to be done.
--- @args job queue

redis.call('ZREM', key.queue .. queue, job)
redis.call('DEL', key.job .. job)
