#!lua flags=allow-oom,allow-cross-slot-keys
--- assign_contact: Add an operator's change to a visit.
--- id: in place of the delivery.
--- @args id
--- @varargs changes: task change previous start
--- @include lib/changes

add_changes(id, changes)
