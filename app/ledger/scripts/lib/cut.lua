--- Long values of a hash. Redis stores a small hash in half the memory if no value of it is longer than 64 bytes. So a longer
--- value is cut: it continues in the fields `<name>+1`, `<name>+2` and so on. values.py joins them again.

-- A very long value is not cut: its hash would have too many fields for the compact form.
local MAX_BYTES, MAX_CUT_BYTES = 64, 6400

-- -> names and values of the fields for a value, for HSET. number: that of the first field; none for the whole value.
local function cut(name, value, number)
  local field = number and name .. '+' .. number or name
  if #value <= MAX_BYTES or #value > MAX_CUT_BYTES then return field, value end
  return field, string.sub(value, 1, MAX_BYTES), cut(name, string.sub(value, MAX_BYTES + 1), (number or 0) + 1)
end
