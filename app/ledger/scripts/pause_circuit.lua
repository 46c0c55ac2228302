#!lua flags=allow-oom,allow-cross-slot-keys
--- pause_circuit: Pause an account until an operator resumes it, or resume it. If the API allows no calls yet, because of a 429
--- before or during the pause, the circuit is then rate_limited.
--- is_paused: 1 | 0
--- @args account is_paused
--- @returns 1 if this changed the circuit, else 0
--- @include lib/transitions

local NEVER = '9007199254740991'  -- the greatest integer that Lua can hold
local circuit = key.circuit .. account
local was_paused = call('HGET', circuit, 'kind') == 'paused'

local function resume()
  local limited_until = call('HGET', circuit, 'limited_until')
  if limited_until and tonumber(limited_until) > now then
    call('HSET', circuit, 'kind', 'rate_limited', 'until', limited_until)
  else
    call('DEL', circuit)
  end
  note_progress()  -- the pause must not count as a lack of progress
  return 1
end

if is_paused == '0' then return was_paused and resume() or 0 end
if was_paused then return 0 end
call('SADD', key.circuits, account)
call('HDEL', circuit, 'probe')
call('HSET', circuit, 'kind', 'paused', 'since', now, 'until', NEVER)
return 1
