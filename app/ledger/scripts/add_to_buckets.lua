#!lua flags=allow-oom,allow-cross-slot-keys
--- add_to_buckets: Add entries to an index, or make them its newest. They expire keep_ms from now, or up to ten days later.
--- digits: the first six of the digest, in hex. entry: the digest without its first byte, and an id.
--- @args index keep_ms
--- @varargs entries: digits entry
--- @include lib/buckets

local period = open_period(index, keep_ms)
for _, each in ipairs(entries) do add_to_bucket(index, period, each.digits, each.entry) end
