#!lua flags=allow-oom,allow-cross-slot-keys
--- heartbeat: Store the report of a worker, and that it is alive.
--- @args worker report ttl_ms
--- @returns how many workers are alive
--- @include lib/clock

call('SET', worker, report, 'PX', ttl_ms)
call('ZREMRANGEBYSCORE', key.workers, '-inf', now - ttl_ms)
-- Never to an earlier time: after the clock went back, requeue_due sees by the newest heartbeat how far, and then corrects it.
call('ZADD', key.workers, 'GT', now, worker)
return call('ZCARD', key.workers)
