#!lua flags=allow-oom,allow-cross-slot-keys
--- remove_from_buckets: Remove entries from an index, whenever they expire. digits and entry: as for add_to_buckets.
--- @args index
--- @varargs entries: digits entry
--- @include lib/buckets

for _, each in ipairs(entries) do
  each_bucket(index, each.digits, function(name) call('LREM', name, 0, each.entry) end)
end
