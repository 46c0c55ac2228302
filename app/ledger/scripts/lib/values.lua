--- Long values of a hash. Redis stores a small hash in half the memory if no value of it is longer than 64 bytes. So a longer
--- value is cut: it continues in the fields `<name>+1`, `<name>+2` and so on. values.py joins them again.
--- @include lib/clock

-- A very long value is not cut: its hash would have too many fields for the compact form.
local MAX_BYTES, MAX_CONTINUATIONS = 64, 100

local function count_continuations(value)
  local count = math.max(0, math.ceil(#value / MAX_BYTES) - 1)
  return count <= MAX_CONTINUATIONS and count or 0
end

-- -> names and values of the fields for a value, for HSET
local function cut(name, value)
  local count = count_continuations(value)
  if count == 0 then return name, value end
  local fields = {name, string.sub(value, 1, MAX_BYTES)}
  for number = 1, count do
    fields[#fields + 1] = name .. '+' .. number
    fields[#fields + 1] = string.sub(value, number * MAX_BYTES + 1, (number + 1) * MAX_BYTES)
  end
  return unpack(fields)
end

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
  call('HSET', hash, cut(name, value))
  delete_continuations(hash, name, count_continuations(value) + 1)
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
