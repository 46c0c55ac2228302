--- Bounds of a visit over all of its ids; most fields of a hash are changes.

-- A visit beyond these takes no more changes: an operator decides.
local MAX_ALIASES, MAX_FIELDS = 200, 5000
-- Beyond these, which only data from before the bounds above exceeds, no run starts.
local MAX_ALIASES_READ, MAX_FIELDS_READ = 1000, 20000
