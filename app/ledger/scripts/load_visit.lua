#!lua flags=no-writes,allow-cross-slot-keys
--- load_visit: Read the tasks of all ids of a visit, the primary first.
--- @args task
--- @returns [[task, depth, hash]…]
--- @include lib/aliases

return encode_aliases((load_aliases(task)))
