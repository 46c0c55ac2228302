--- Stored deliveries: a line of JSON (records.py has the names of its fields), and the body.
--- @include lib/clock

-- The key has the id without its time: the digest of the event, so that a repeat leads to it.
local function delivery_key(id) return key.delivery .. string.sub(id, 1, 1) .. string.sub(id, 13) end

-- Is this delivery stored? Another one of the same event has the same key, if a failover lost the first one.
local function is_stored(id)
  local arrived_at = string.match(call('GETRANGE', delivery_key(id), 0, 255), '"a":(%d+)')
  return tonumber(arrived_at or 0) == tonumber(string.sub(id, 2, 12), 16)
end

-- The first text with this name.
local function head_field(head, name) return string.match(head, '"' .. name .. '":"([^"]*)"') end
