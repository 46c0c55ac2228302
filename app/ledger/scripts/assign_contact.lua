#!lua flags=allow-oom,allow-cross-slot-keys
--- assign_contact: Add an operator's change to a visit.
--- @args id
--- @varargs changes: task change previous start
--- @include lib/changes

add_changes(id, changes)
