#!lua flags=allow-oom,allow-cross-slot-keys
--- mark_audited: Note that an audit saw the visit in the API. A visit that has expired meanwhile is not created for that.
--- @args task mark

if redis.call('EXISTS', key.task .. task) == 1 then redis.call('HSET', key.task .. task, 'audited', mark) end
