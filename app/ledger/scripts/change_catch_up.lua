#!lua flags=allow-oom,allow-cross-slot-keys
--- change_catch_up: Set fields of a catch-up, if the stored one is still the expected one. Without fields, remove it.
--- expected: its id, '' for none. is_open: 1 if a worker shall continue it. keep_s: how long it is stored.
--- @args slot expected is_open keep_s
--- @varargs fields: name value
--- @returns 1; 0 if another one is stored, or none

local hash = key.catch_up .. slot
if (redis.call('HGET', hash, 'id') or '') ~= expected then return 0 end
if #fields == 0 then
  redis.call('DEL', hash)
else
  for _, field in ipairs(fields) do redis.call('HSET', hash, field.name, field.value) end
  redis.call('EXPIRE', hash, keep_s)
end
redis.call(is_open == '1' and 'SADD' or 'SREM', key.open_catch_ups, slot)
return 1
