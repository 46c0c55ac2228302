--- Reads, replaces and deletes values that may be cut.
--- @include lib/clock
--- @include lib/cut

-- -> 1, or 0 if there was none
local function delete_value(hash, name)
  local deleted, number = call('HDEL', hash, name), 1
  while deleted == 1 and call('HDEL', hash, name .. '+' .. number) == 1 do number = number + 1 end
  return deleted
end

local function replace_value(hash, name, value)
  delete_value(hash, name)
  call('HSET', hash, cut(name, value))
end

-- -> the whole values of a hash by name. prefix: of the names; none for all.
local function load_values(hash, prefix)
  local flat, fields, values = call('HGETALL', hash), {}, {}
  for f = 1, #flat, 2 do
    if not prefix or string.sub(flat[f], 1, #prefix) == prefix then fields[flat[f]] = flat[f + 1] end
  end
  for name, value in pairs(fields) do
    if not string.find(name, '+', 1, true) then
      local pieces, next_piece = {value}, fields[name .. '+1']
      while next_piece do
        pieces[#pieces + 1] = next_piece
        next_piece = fields[name .. '+' .. #pieces]
      end
      values[name] = table.concat(pieces)
    end
  end
  return values
end
