--- Stored deliveries: a line of JSON (records.py has the names of its fields), and the body.

-- The first text with this name; full_name: before schema 2.
local function head_field(head, name, full_name)
  return string.match(head, '"' .. name .. '":"([^"]*)"') or string.match(head, '"' .. full_name .. '":"([^"]*)"')
end
