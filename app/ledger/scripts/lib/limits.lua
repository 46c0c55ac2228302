--- Limits of a visit over all its ids. Most fields of a hash are changes.

-- A visit accepts no changes beyond these limits.
local MAX_ALIASES, MAX_FIELDS = 200, 5000
-- No run starts beyond these limits. Only data that was stored before the limits above existed exceeds them.
local MAX_ALIASES_READ, MAX_FIELDS_READ = 1000, 20000
