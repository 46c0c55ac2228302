"""Everything that is in Redis: deliveries, changes, tasks, leases. No other package builds or parses a key."""
