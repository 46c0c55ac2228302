#!lua flags=allow-oom,allow-cross-slot-keys
--- assign_contact: Add an operator's own change to a visit.
--- @args id
--- @rest changes: task change previous
--- @include lib/changes

add_changes(id, changes)
