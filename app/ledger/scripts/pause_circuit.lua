#!lua flags=allow-oom,allow-cross-slot-keys
--- pause_circuit: Pause an account until an operator resumes it, or resume it.
--- is_paused: 1 | 0
--- @args account is_paused
--- @returns 1 if this changed the circuit, else 0
--- @include lib/transitions

local NEVER = '9007199254740991'  -- the greatest integer that Lua can hold
local circuit = key.circuit .. account
local was_paused = call('HGET', circuit, 'kind') == 'paused'
if is_paused == '0' then
  if was_paused then note_progress() end  -- the pause must not count as a lack of progress
  return was_paused and call('DEL', circuit) or 0
end
if was_paused then return 0 end
call('SADD', key.circuits, account)
call('HDEL', circuit, 'probe')
call('HSET', circuit, 'kind', 'paused', 'since', now, 'until', NEVER)
return 1
