--- The time in a change.

-- change: decoded. -> the time of completion, or else of the appointment; or nil
local function time_in(change)
  local time = change.f.f  -- `s`: of the appointment (change.py)
  if type(time) ~= 'string' then time = change.f.s end
  return type(time) == 'string' and time or nil
end

-- A time as a number, to the second. It orders held tasks.
local function time_rank(time) return tonumber(string.sub((string.gsub(time, '%D', '')), 1, 14)) end
