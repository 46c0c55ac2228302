#!lua flags=allow-oom,allow-cross-slot-keys
--- mark_audited: Store that an audit found the visit in the API, unless the task has expired.
--- @args task mark

if redis.call('EXISTS', key.task .. task) == 1 then redis.call('HSET', key.task .. task, 'audited', mark) end
