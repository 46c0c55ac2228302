--- Reads, replaces and deletes values that may be cut.
--- @include lib/clock
--- @include lib/cut

local function is_continuation(field) return string.find(field, '+', 1, true) end

local function delete_continuations(hash, name, first)
  while call('HDEL', hash, name .. '+' .. first) == 1 do first = first + 1 end
end

-- -> 1, or 0 if there was none
local function delete_value(hash, name)
  local deleted = call('HDEL', hash, name)
  if deleted == 1 then delete_continuations(hash, name, 1) end
  return deleted
end

local function replace_value(hash, name, value)
  local fields = {cut(name, value)}
  call('HSET', hash, unpack(fields))
  delete_continuations(hash, name, #fields / 2)
end

-- -> the fields of a hash by name
local function load_fields(hash)
  local flat, fields = call('HGETALL', hash), {}
  for f = 1, #flat, 2 do fields[flat[f]] = flat[f + 1] end
  return fields
end

local function join(fields, name)
  local parts = {fields[name]}
  while fields[name .. '+' .. #parts] do parts[#parts + 1] = fields[name .. '+' .. #parts] end
  return table.concat(parts)
end
