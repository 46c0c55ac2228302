--- Stored deliveries: a line of JSON (records.py has the names of its fields), and the body.

-- The first text with this name.
local function head_field(head, name) return string.match(head, '"' .. name .. '":"([^"]*)"') end
