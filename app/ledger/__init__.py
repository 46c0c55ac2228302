"""Everything that is in Redis: deliveries, changes, tasks, leases. Nobody else spells a key."""
